"""Injection without a server: the webhook's decision as a MutatingAdmissionPolicy, in CEL.

Containers, volumes, settings, limits and messages are the webhook's own (`injector.admission`, `contract`);
only conditions are written a second time, and tests run both over the same pods.

    cel       Python values and templates as CEL
    settings  what an annotation may be
    reasons   why a pod is left as it is
    objects   the policy objects

`python -m injector policy` prints them. What belongs here: expressions. Nothing here runs in a pod.
"""
