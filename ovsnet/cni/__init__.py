"""The Container Network Interface: the executable that runtimes call, and the agent's side of it.

    client     the executable in /opt/cni/bin; standard library only, imports nothing of ours. client.c is the
               same in C, and installed where a compiler is
    executable makes what is installed of one of them
    protocol   what travels on the unix socket, and a CNI request as typed data         pure
    netconf    the network configuration that a runtime sends                           pure
    result     results and errors as the specification's versions want them             pure
    listener   the unix socket: taking it over, receiving one request with its descriptor
    server     requests to the backend, answers and errors back

Source of everything here: CNI specification 1.1 (containernetworking/cni, SPEC.md, tag spec-v1.1.0)
and CONVENTIONS.md beside it.
"""
