package main

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// raw passes message bytes through. It takes the name "proto" so that the content type on the wire is
// plain application/grpc, as generated code sends it.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("not a message: %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*message)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("not a message: %T", v)
	}
	*message = data.Materialize()
	return nil
}

func init() { encoding.RegisterCodecV2(raw{}) }
