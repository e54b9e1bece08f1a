// Discovery, and every list in every form in which client-go can ask for it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/pager"
)

func discoverAll(context.Context) {
	version := must(found.ServerVersion())
	holds("version "+version.String(), version.Major == "1" && strings.HasPrefix(version.Minor, "37"))
	groups, lists, err := found.ServerGroupsAndResources()
	check(err)
	holds("groups", len(groups) > 15 && len(lists) > 15)
	legacy := discovery.NewDiscoveryClientForConfigOrDie(plain)
	legacy.UseLegacyDiscovery = true
	_, old, err := legacy.ServerGroupsAndResources()
	check(err)
	same("resources of both discoveries", resourceNames(old), resourceNames(lists))
	must(found.ServerPreferredResources())
	document := must(found.OpenAPISchema()) // protobuf
	holds("definitions", len(document.Definitions.AdditionalProperties) > 500)
	paths := must(found.OpenAPIV3().Paths())
	for path, one := range paths {
		bytes, err := one.Schema("application/json")
		if err != nil || !json.Valid(bytes) {
			panic(fmt.Sprintf("OpenAPI v3 of %s: %v", path, err))
		}
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(found))
	short := restmapper.NewShortcutExpander(mapper, found, nil)
	same("deploy", must(short.ResourceFor(schema.GroupVersionResource{Resource: "deploy"})).Resource, "deployments")
	mapping := must(mapper.RESTMapping(schema.GroupKind{Group: "batch", Kind: "CronJob"}))
	same("scope", mapping.Scope.Name(), meta.RESTScopeNameNamespace)
}

func resourceNames(lists []*metav1.APIResourceList) (names []string) {
	for _, list := range lists {
		for _, resource := range list.APIResources {
			verbs := slices.Sorted(slices.Values(resource.Verbs))
			names = append(names, fmt.Sprint(list.GroupVersion, " ", resource.Name, resource.Kind, resource.Namespaced, verbs))
		}
	}
	slices.Sort(names)
	return names
}

// restClient speaks one group version with typed objects.
func restClient(version schema.GroupVersion, contentType string) rest.Interface {
	config := rest.CopyConfig(plain)
	config.GroupVersion = &version
	config.APIPath = "/apis"
	if version.Group == "" {
		config.APIPath = "/api"
	}
	config.ContentType, config.AcceptContentTypes = contentType, contentType
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	return must(rest.RESTClientFor(config))
}

// everyList compares what is read in JSON and in protobuf as typed objects, and reads the same as metadata and as a table.
func everyList(ctx context.Context) {
	var problems []string
	listed := 0
	_, lists, err := found.ServerGroupsAndResources()
	check(err)
	for _, list := range lists {
		version := must(schema.ParseGroupVersion(list.GroupVersion))
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "list") {
				continue
			}
			listed++
			if err := oneList(ctx, version, resource); err != nil {
				problems = append(problems, fmt.Sprintf("%s %s: %v", version, resource.Name, err))
			}
		}
	}
	holds(strings.Join(problems, "\n"), len(problems) == 0)
	holds(fmt.Sprint("lists: ", listed), listed > 50)
}

func oneList(ctx context.Context, version schema.GroupVersion, resource metav1.APIResource) error {
	if !scheme.Scheme.IsGroupRegistered(version.Group) {
		// The types of custom resources and API services are not part of client-go.
		_, err := loose.Resource(version.WithResource(resource.Name)).List(ctx, metav1.ListOptions{})
		return err
	}
	// What changes between two reads is read as it was; what has no revision is read again.
	var difference error
	for range 5 {
		read := func(kind string, options metav1.ListOptions) (runtime.Object, error) {
			return restClient(version, kind).Get().Resource(resource.Name).
				VersionedParams(&options, scheme.ParameterCodec).Do(ctx).Get()
		}
		fromJSON, err := read("application/json", metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("JSON: %w", err)
		}
		options := metav1.ListOptions{ResourceVersion: must(meta.ListAccessor(fromJSON)).GetResourceVersion()}
		if options.ResourceVersion != "" {
			options.ResourceVersionMatch = metav1.ResourceVersionMatchExact
		}
		fromProtobuf, err := read(protobuf, options)
		if err != nil {
			return fmt.Errorf("protobuf: %w", err)
		}
		if difference = compare(fromJSON, fromProtobuf); difference == nil {
			break
		}
	}
	if difference != nil {
		return difference
	}
	if _, err := partial.Resource(version.WithResource(resource.Name)).List(ctx, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	bytes, err := restClient(version, "application/json").Get().Resource(resource.Name).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("table: %w", err)
	}
	var table metav1.Table
	if err := json.Unmarshal(bytes, &table); err != nil || len(table.ColumnDefinitions) == 0 {
		return fmt.Errorf("table of %d columns: %w", len(table.ColumnDefinitions), err)
	}
	for _, row := range table.Rows {
		if len(row.Cells) != len(table.ColumnDefinitions) {
			return fmt.Errorf("a row of %d cells", len(row.Cells))
		}
	}
	return nil
}

func compare(one, other runtime.Object) error {
	a, b := must(meta.ExtractList(one)), must(meta.ExtractList(other))
	if len(a) != len(b) {
		return fmt.Errorf("%d in JSON, %d in protobuf", len(a), len(b))
	}
	for i := range a {
		// Decoders differ in whether items of lists keep their kind.
		a[i].GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		b[i].GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		if !equality.Semantic.DeepEqual(a[i], b[i]) {
			return fmt.Errorf("item %d differs:\nJSON     %s\nprotobuf %s", i, must(json.Marshal(a[i])), must(json.Marshal(b[i])))
		}
	}
	return nil
}

func pagesAndSelectors(ctx context.Context) {
	maps := typed.CoreV1().ConfigMaps(ns)
	for n := range 25 {
		must(maps.Create(ctx, configMap(fmt.Sprintf("page-%02d", n), map[string]string{"page": fmt.Sprint(n % 2)}), metav1.CreateOptions{}))
	}
	all := metav1.ListOptions{LabelSelector: "page", Limit: 10}
	first := must(maps.List(ctx, all))
	same("first page", []any{len(first.Items), first.Continue != ""}, []any{10, true})
	unlabelled := must(maps.List(ctx, metav1.ListOptions{Limit: 10}))
	holds("items that remain", unlabelled.RemainingItemCount != nil && *unlabelled.RemainingItemCount >= 15)
	// A page belongs to its list's revision: what is deleted meanwhile is still there.
	check(maps.Delete(ctx, "page-24", metav1.DeleteOptions{}))
	all.Continue = first.Continue
	second := must(maps.List(ctx, all))
	same("revision", second.ResourceVersion, first.ResourceVersion)
	all.Continue = second.Continue
	same("third page", len(must(maps.List(ctx, all)).Items), 5)
	count := 0
	pages := pager.New(pager.SimplePageFunc(func(opts metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, opts) }))
	pages.PageSize = 4
	check(pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: "page"}, func(runtime.Object) error { count++; return nil }))
	same("items", count, 24)
	same("odd", len(must(maps.List(ctx, metav1.ListOptions{LabelSelector: "page in (1,5),page!=0"})).Items), 12)
	same("one", len(must(maps.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=page-07"})).Items), 1)
	_, err := maps.List(ctx, metav1.ListOptions{FieldSelector: "data.a=1"})
	refused("unknown field", errors.IsBadRequest, err)
	_, err = maps.List(ctx, metav1.ListOptions{Continue: "nonsense"})
	refused("continue", errors.IsBadRequest, err)
	future := &metav1.ListOptions{ResourceVersion: "999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	err = typed.CoreV1().RESTClient().Get().Namespace(ns).Resource("configmaps").VersionedParams(future, scheme.ParameterCodec).
		MaxRetries(0).Do(ctx).Error()
	refused("a revision of the future", func(err error) bool {
		return errors.IsTimeout(err) && errors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
	}, err)
	same("from memory", len(must(maps.List(ctx, metav1.ListOptions{ResourceVersion: "0", LabelSelector: "page"})).Items), 24)
	compressed(ctx)
}

// compressed checks that long answers come in gzip, which net/http undoes silently otherwise.
func compressed(ctx context.Context) {
	long := configMap("long", nil)
	long.Data["a"] = strings.Repeat("0123456789", 30_000)
	must(typed.CoreV1().ConfigMaps(ns).Create(ctx, long, metav1.CreateOptions{}))
	config := rest.CopyConfig(plain)
	config.DisableCompression = true
	client := must(rest.HTTPClientFor(config))
	request := must(http.NewRequestWithContext(ctx, "GET", config.Host+"/api/v1/namespaces/"+ns+"/configmaps/long", nil))
	request.Header.Set("Accept-Encoding", "gzip")
	answer := must(client.Do(request))
	defer answer.Body.Close()
	same("encoding", answer.Header.Get("Content-Encoding"), "gzip")
}

func ptr[T any](value T) *T { return &value }

func dynamicInCBOR(ctx context.Context) {
	heard := &kinds{}
	config := rest.CopyConfig(plain)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { heard.next = next; return heard })
	cbor := must(dynamicFor(config))
	maps := cbor.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(ns)
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "cbor"}, "data": map[string]any{"a": "1"}}}
	must(maps.Create(ctx, object, metav1.CreateOptions{}))
	events := must(maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=cbor"}))
	defer events.Stop()
	same("watch", fmt.Sprint(next(ctx, "an event", events.ResultChan()).Type), "ADDED")
	object.Object["data"] = map[string]any{"a": "2"}
	object.SetResourceVersion("")
	applied := must(maps.Apply(ctx, "cbor", object, metav1.ApplyOptions{FieldManager: "cbor", Force: true}))
	value, _, _ := unstructured.NestedString(applied.Object, "data", "a")
	same("applied", value, "2")
	same("listed", len(must(maps.List(ctx, metav1.ListOptions{})).Items) > 0, true)
	check(maps.Delete(ctx, "cbor", metav1.DeleteOptions{}))
	_, err := maps.Get(ctx, "cbor", metav1.GetOptions{})
	refused("gone", errors.IsNotFound, err)
	kinds := heard.all()
	for _, kind := range []string{"> application/cbor", "< application/cbor", "> application/apply-patch+cbor", "< application/cbor-seq"} {
		holds(fmt.Sprint("no ", kind, " among ", kinds), slices.Contains(kinds, kind))
	}
}
