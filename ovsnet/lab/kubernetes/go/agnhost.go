//go:build tools

// Upstream's program for test pods is built from its own package; this import only keeps its dependencies in go.mod.
package kubernetes

import _ "k8s.io/kubernetes/test/images/agnhost"
