// The programs of a small Kubernetes cluster in one executable: most of their code is the same, and so is most of
// the time that it takes to link them. The name by which it is called says which one it is to be; links of those
// names are made by ovsnet/lab/kubernetes/build.py.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	etcd "go.etcd.io/etcd/server/v3/etcdmain"

	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlerrors "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app"
	kubeadmerrors "k8s.io/kubernetes/cmd/kubeadm/app/util/errors"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	name := filepath.Base(os.Args[0])
	switch name {
	case "etcd":
		// As kubeadm it says itself what is wrong, and ends the process.
		etcd.Main(os.Args)
	case "kubectl":
		// Unlike the others it prints its errors itself, and chooses its exit code by them.
		kubectlerrors.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	case "kubeadm":
		kubeadmerrors.HandleError(kubeadm.Run())
	default:
		command := daemon(name)
		if command == nil {
			fmt.Fprintf(os.Stderr, "%s is none of the cluster's programs\n", name)
			os.Exit(2)
		}
		os.Exit(cli.Run(command))
	}
}

// daemon returns nil for a name that it does not know.
func daemon(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllers.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	}
	return nil
}
