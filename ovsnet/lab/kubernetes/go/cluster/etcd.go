package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

const (
	clients = "http://127.0.0.1:2379"
	peers   = "http://127.0.0.1:2380"
)

// runEtcd serves clients of its own network namespace from the data folder in the only argument, until SIGTERM or
// SIGINT. One member, which does not wait for the disk: a lab that loses power is made anew.
func runEtcd(arguments []string) int {
	if len(arguments) != 1 {
		fmt.Fprintln(os.Stderr, "usage: etcd DATA_FOLDER")
		return 2
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	server, err := embed.StartEtcd(etcdConfig(arguments[0]))
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		return 1
	}
	defer server.Close()
	select {
	case <-stop:
		return 0
	case err := <-server.Err():
		fmt.Fprintln(os.Stderr, "etcd:", err)
		return 1
	}
}

func etcdConfig(folder string) *embed.Config {
	config := embed.NewConfig()
	config.Dir = folder
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	config.WarningUnaryRequestDuration = time.Second // 0, which it is of itself, has every request logged
	config.ListenClientUrls = address(clients)
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = address(peers)
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	return config
}

func address(text string) []url.URL {
	parsed, err := url.Parse(text)
	if err != nil {
		panic(err) // a constant above
	}
	return []url.URL{*parsed}
}
