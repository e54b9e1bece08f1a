// client-go against a cluster ($KUBECONFIG), in the namespace $NAMESPACE that exists and is empty.
//
// Typed clients speak protobuf both ways; "cbor" as the first word runs the dynamic client alone, which with client-go's
// feature gates in the environment speaks CBOR.
package main

import (
	"os"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const protobuf = "application/vnd.kubernetes.protobuf"

var (
	ns       string
	settings *rest.Config // protobuf
	plain    *rest.Config // JSON
	typed    kubernetes.Interface
	loose    dynamic.Interface
	partial  metadata.Interface
	found    *discovery.DiscoveryClient
)

func main() {
	ns = environment("NAMESPACE")
	plain = must(clientcmd.BuildConfigFromFlags("", environment("KUBECONFIG")))
	plain.QPS, plain.Burst = -1, 0
	settings = rest.CopyConfig(plain)
	settings.ContentType = protobuf
	settings.AcceptContentTypes = protobuf + ",application/json"
	typed = must(kubernetes.NewForConfig(settings))
	loose = must(dynamic.NewForConfig(plain))
	partial = must(metadata.NewForConfig(plain))
	found = must(discovery.NewDiscoveryClientForConfig(plain))
	words := os.Args[1:]
	if len(words) > 0 && words[0] == "cbor" {
		os.Exit(run([]testCase{{"dynamic client in CBOR", dynamicInCBOR}}, words[1:]))
	}
	os.Exit(run([]testCase{
		{"discovery", discoverAll},
		{"every list in every form", everyList},
		{"typed writes", typedWrites},
		{"patches and apply", patchesAndApply},
		{"pages and selectors", pagesAndSelectors},
		{"watch list and bookmarks", watchList},
		{"informers", informerFactory},
		{"informers that lose their watch", informersReconnect},
		{"dynamic and metadata informers", otherInformers},
		{"scale and status", scaleAndStatus},
		{"deletion", deletion},
		{"events", eventRecorder},
		{"accounts and access", accounts},
		{"pods: logs, exec, ports", streams},
		{"leader election", election},
	}, words))
}
