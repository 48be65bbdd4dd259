"""The command line, `evenstream` and `kubectl evenstream`: what people see of an installation.

What belongs here: asking the cluster and the sidecars, judging what they answer, and showing it. What a pod
with the sidecar looks like is injector.admission's, and this shows it with the same code.

    app        the commands by name, their help, exit codes
    screen     tables, colours, JSON
    manifests  inject, uninject, diff, validate: files in, files out
    cluster    the Kubernetes API and the admin ports behind it
"""
