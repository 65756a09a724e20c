"""What the node's kernel is told: links, namespaces, addresses, routes, sysctls, nftables.

One of the four edges. Speaks rtnetlink through pyroute2, runs `nft`, and knows nothing of Open vSwitch,
CNI or Kubernetes. Called by `agent`.
"""
