// Watches and informers; client-go begins a watch with what there is (WatchList) unless the server cannot.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

func watchList(ctx context.Context) {
	maps := typed.CoreV1().ConfigMaps(ns)
	must(maps.Create(ctx, configMap("listed", map[string]string{"w": "1"}), metav1.CreateOptions{}))
	events := must(maps.Watch(ctx, metav1.ListOptions{LabelSelector: "w", SendInitialEvents: ptr(true), AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}))
	defer events.Stop()
	tell := func() string {
		event := next(ctx, "an event", events.ResultChan())
		object, ok := event.Object.(*corev1.ConfigMap)
		holds(fmt.Sprintf("%s of %T", event.Type, event.Object), ok)
		return fmt.Sprint(event.Type, " ", object.Name, " ", object.Annotations[metav1.InitialEventsAnnotationKey])
	}
	same("first", tell(), "ADDED listed ")
	same("end of what there is", tell(), "BOOKMARK  true")
	must(maps.Patch(ctx, "listed", types.MergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{}))
	same("change", tell(), "MODIFIED listed ")
	must(maps.Patch(ctx, "listed", types.MergePatchType, []byte(`{"metadata":{"labels":{"w":null}}}`), metav1.PatchOptions{}))
	same("out of the selector", tell(), "DELETED listed ")
	// From a revision, over connections that end.
	start := must(maps.List(ctx, metav1.ListOptions{})).ResourceVersion
	check(maps.Delete(ctx, "listed", metav1.DeleteOptions{}))
	waiting := &cache.ListWatch{WatchFunc: func(options metav1.ListOptions) (watch.Interface, error) {
		options.TimeoutSeconds = ptr(int64(1))
		return maps.Watch(ctx, options)
	}}
	last := must(watchtools.Until(ctx, start, waiting, func(event watch.Event) (bool, error) { return event.Type == watch.Deleted, nil }))
	same("deleted", last.Object.(*corev1.ConfigMap).Name, "listed")
}

// wire counts what informers ask for, and cuts their watches on demand.
type wire struct {
	next    http.RoundTripper
	mutex   sync.Mutex
	asked   []string
	streams []io.Closer
}

func (w *wire) RoundTrip(request *http.Request) (*http.Response, error) {
	answer, err := w.next.RoundTrip(request)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.asked = append(w.asked, request.URL.RawQuery)
	if err == nil && request.URL.Query().Get("watch") != "" {
		w.streams = append(w.streams, answer.Body)
	}
	return answer, err
}

func (w *wire) cut() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, stream := range w.streams {
		stream.Close()
	}
	w.streams = nil
}

func (w *wire) questions() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return append([]string(nil), w.asked...)
}

// watched is a protobuf client of its own, and its wire.
func watched() (kubernetes.Interface, *wire) {
	seen := &wire{}
	config := rest.CopyConfig(settings)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { seen.next = next; return seen })
	return must(kubernetes.NewForConfig(config)), seen
}

func informerFactory(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	client, seen := watched()
	must(client.CoreV1().ConfigMaps(ns).Create(ctx, configMap("there", map[string]string{"i": "1"}), metav1.CreateOptions{}))
	// Everything of the cluster that a controller commonly looks at.
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, namespaces := factory.Core().V1().Nodes().Lister(), factory.Core().V1().Namespaces().Lister()
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Nodes().Informer(), factory.Core().V1().Namespaces().Informer(), factory.Core().V1().Pods().Informer(),
		factory.Core().V1().Services().Informer(), factory.Core().V1().Secrets().Informer(), factory.Core().V1().Events().Informer(),
		factory.Apps().V1().Deployments().Informer(), factory.Apps().V1().ReplicaSets().Informer(),
		factory.Batch().V1().Jobs().Informer(), factory.Discovery().V1().EndpointSlices().Informer(),
		factory.Networking().V1().Ingresses().Informer(), factory.Rbac().V1().ClusterRoles().Informer(),
		factory.Coordination().V1().Leases().Informer(), factory.Storage().V1().StorageClasses().Informer(),
		factory.Policy().V1().PodDisruptionBudgets().Informer(), factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
	} {
		holds("fresh", !informer.HasSynced())
	}
	some := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "i" }))
	maps := some.Core().V1().ConfigMaps()
	told := make(chan string, 10)
	must(maps.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(object any, initial bool) {
			told <- fmt.Sprint("add ", object.(*corev1.ConfigMap).Name, " ", initial)
		},
		UpdateFunc: func(_, object any) { told <- "update " + object.(*corev1.ConfigMap).Data["a"] },
		DeleteFunc: func(object any) { told <- "delete" },
	}))
	factory.Start(ctx.Done())
	some.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		holds(fmt.Sprint(kind, " is in sync"), synced)
	}
	some.WaitForCacheSync(ctx.Done())
	same("nodes", len(must(nodes.List(labels.Everything()))), 1)
	must(namespaces.Get(ns))
	same("what was there", next(ctx, "an event", told), "add there true")
	follow(ctx, client, told)
	for _, question := range seen.questions() {
		holds("a list beside the watch list: "+question, strings.Contains(question, "watch=true") || question == "")
	}
}

func follow(ctx context.Context, client kubernetes.Interface, told <-chan string) {
	maps := client.CoreV1().ConfigMaps(ns)
	must(maps.Patch(ctx, "there", types.MergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{}))
	same("told", next(ctx, "a change", told), "update 2")
	must(maps.Create(ctx, configMap("other", map[string]string{"i": "1"}), metav1.CreateOptions{}))
	same("told", next(ctx, "another", told), "add other false")
	check(maps.Delete(ctx, "there", metav1.DeleteOptions{}))
	same("told", next(ctx, "an end", told), "delete")
	check(maps.Delete(ctx, "other", metav1.DeleteOptions{}))
	same("told", next(ctx, "an end", told), "delete")
}

// informersReconnect cuts a watch while things change: nothing is lost, nothing is told twice.
func informersReconnect(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	client, seen := watched()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
	maps := factory.Core().V1().ConfigMaps()
	added := make(chan string, 100)
	must(maps.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{AddFunc: func(object any, initial bool) {
		if name := object.(*corev1.ConfigMap).Name; !initial && strings.HasPrefix(name, "cut-") {
			added <- name
		}
	}}))
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for n := range 2 { // client-go waits longer after each
		seen.cut()
		name := fmt.Sprint("cut-", n)
		must(client.CoreV1().ConfigMaps(ns).Create(ctx, configMap(name, nil), metav1.CreateOptions{}))
		same("added", next(ctx, name, added), name)
	}
	same("told twice", len(added), 0)
}

func otherInformers(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	resource := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	unknown := dynamicinformer.NewFilteredDynamicSharedInformerFactory(loose, 0, ns, nil).ForResource(resource)
	headers := metadatainformer.NewFilteredSharedInformerFactory(partial, 0, ns, nil).ForResource(resource)
	go unknown.Informer().Run(ctx.Done())
	go headers.Informer().Run(ctx.Done())
	holds("in sync", cache.WaitForCacheSync(ctx.Done(), unknown.Informer().HasSynced, headers.Informer().HasSynced))
	must(typed.CoreV1().ConfigMaps(ns).Create(ctx, configMap("both", map[string]string{"x": "y"}), metav1.CreateOptions{}))
	eventually(ctx, "the object", func() bool {
		object, err := unknown.Lister().ByNamespace(ns).Get("both")
		return err == nil && object.(*unstructured.Unstructured).GetLabels()["x"] == "y"
	})
	eventually(ctx, "its metadata", func() bool {
		object, err := headers.Lister().ByNamespace(ns).Get("both")
		return err == nil && object.(*metav1.PartialObjectMetadata).Labels["x"] == "y"
	})
}
