module evenstream.dev/hack/pause

go 1.21
