"""What `hack/cluster` is made of. Python's standard library only, so that it runs before any set-up.

Read in this order:
  cli         the commands and their help
  paths       where everything lies, and the addresses
  shell       running other programs, with deadlines and one-line errors
  packages    Debian packages
  artefacts   what is compiled from Go modules, and the cache
  pki         keys and certificates
  supervisor  the process that starts the cluster's programs and keeps them running
  box         namespaces around a supervisor, so that stopping it leaves nothing behind
  node        one node: network, configuration, programs
  apiserver   etcd and kube-apiserver alone, for tests
  docker      the daemon that builds images
  images      image files, the project's images, loading them into the cluster
  context     the same commands for a cluster that exists already
"""
