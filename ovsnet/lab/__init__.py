"""A cluster on one machine: nodes, pods and an outside host in namespaces, for trying ovsnet out and for its tests.

The way in is `ovsnet.lab.lab.Lab`. Nothing here is needed on a real node, and nothing in the agent knows of it.
"""
