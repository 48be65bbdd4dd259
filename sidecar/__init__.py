"""The sidecar: takes a pod's outbound gRPC streams and spreads them over a Service's endpoints.

Layers, imports point one way: `__main__` -> admin, net, discovery -> splice -> balance -> wire.
"""
