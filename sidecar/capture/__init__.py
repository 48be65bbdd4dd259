"""The redirect rules of `capture: iptables`, and the program that puts them in force.

It runs once, in an init container, with NET_ADMIN and nothing else, and shares no code with the rest
of the sidecar but `contract`. What belongs here: building the rules (`rules`, pure) and applying them
(`__main__`). Rules that need more than iptables' nat table do not.
"""
