"""The injector: a mutating admission webhook that adds the sidecar to pods that ask for it."""
