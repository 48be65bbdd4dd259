"""The parts of `demo.py`: objects (Service and EndpointSlices in a file), clusterip (a stand-in for
kube-proxy), processes (the servers, the sidecar, the client), screen (what a person watches), verdict
(whether it was even), story (what happens when) and signals (how it ends early). Standard library only."""
