"""The `kubernetes` store: seven kinds by list and watch of the Kubernetes API.

    access      where the API server is, and credentials, read again when their files change
    client      one connection pool: requests, watches, and what they cost
    answers     what the server says, undecoded as far as it can be
    reflector   all objects of one kind, followed
    turn        its long work, in which others get their turn
    store       the store made of seven of these
    writer      what the agent publishes on its own Node
    events      what it tells as Events, however often it happens in few writes

On httpx, with a reader of kubeconfigs of our own, instead of on one of the libraries for the Kubernetes API. lightkube,
the smallest of them, was looked at: it reads a certificate authority and client certificates once, so their rotation
needs a restart; writes key material of a kubeconfig to files; leaves no say in the sockets, so a half-open connection
is not noticed; and brings classes for the fields of all kinds, where we take seven kinds and few fields. httpx takes
15 MB and 0.2 s, so nothing here is imported but where the store is this one.
"""
