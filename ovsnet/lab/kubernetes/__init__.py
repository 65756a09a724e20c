"""A real Kubernetes cluster as a lab: `ovsnet lab up --kubernetes`.

    go/          Go modules from which its programs are built
    build        builds and keeps them, and the images that are made of them
    tools        programs of the machine that it needs
    images       container images without a registry
    plan         addresses, ranges and command lines                       pure
    files        the text of every file that its programs read             pure
    pki          certificates and kubeconfigs
    control      the control plane: a place of its own
    node         a lab's node with containerd and kubelet
    check        whether its pods talk
    cluster      the lab made of these

Underlay, nodes' Open vSwitch, state and removal are those of every other lab.
"""
