"""A cluster on one machine: nodes, pods and an outside host in namespaces, to try ovsnet out and to test it.

The way in is `ovsnet.lab.lab.Lab`. A real node needs nothing of this, and the agent knows nothing of it.
"""
