// Creating, changing and deleting.
package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
)

// kinds remembers the content types of requests (">") and answers ("<").
type kinds struct {
	next  http.RoundTripper
	mutex sync.Mutex
	heard []string
}

func (k *kinds) RoundTrip(request *http.Request) (*http.Response, error) {
	answer, err := k.next.RoundTrip(request)
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.heard = append(k.heard, "> "+request.Header.Get("Content-Type"))
	if err == nil {
		k.heard = append(k.heard, "< "+answer.Header.Get("Content-Type"))
	}
	return answer, err
}

func (k *kinds) all() []string {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(k.heard)))
}

func dynamicFor(config *rest.Config) (dynamic.Interface, error) { return dynamic.NewForConfig(config) }

func typedWrites(ctx context.Context) {
	heard := &kinds{}
	config := rest.CopyConfig(settings)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { heard.next = next; return heard })
	maps := must(kubernetes.NewForConfig(config)).CoreV1().ConfigMaps(ns)
	made := must(maps.Create(ctx, configMap("crud", nil), metav1.CreateOptions{FieldManager: "go"}))
	same("bytes", made.BinaryData["bytes"], []byte{0, 1, 255})
	same("manager", made.ManagedFields[0].Manager, "go")
	_, err := maps.Create(ctx, configMap("crud", nil), metav1.CreateOptions{})
	refused("created twice", errors.IsAlreadyExists, err)
	made.Data["b"] = "2"
	changed := must(maps.Update(ctx, made, metav1.UpdateOptions{}))
	made.Data["b"] = "3"
	_, err = maps.Update(ctx, made, metav1.UpdateOptions{})
	refused("an old version", errors.IsConflict, err)
	check(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh := must(maps.Get(ctx, "crud", metav1.GetOptions{}))
		fresh.Data["b"] = "4"
		_, err := maps.Update(ctx, fresh, metav1.UpdateOptions{})
		return err
	}))
	_, err = maps.Create(ctx, configMap("Bad_Name", nil), metav1.CreateOptions{})
	refused("a bad name", func(err error) bool {
		return errors.IsInvalid(err) && err.(errors.APIStatus).Status().Details.Causes[0].Field == "metadata.name"
	}, err)
	must(maps.Create(ctx, configMap("dry", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))
	_, err = maps.Get(ctx, "dry", metav1.GetOptions{})
	refused("a dry run", errors.IsNotFound, err)
	err = maps.Delete(ctx, "crud", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &changed.ResourceVersion}})
	refused("a precondition", errors.IsConflict, err)
	check(maps.Delete(ctx, "crud", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(made.UID))}))
	named := must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "gen-", Labels: map[string]string{"gen": ""}}}, metav1.CreateOptions{}))
	holds("a name of its own: "+named.Name, len(named.Name) == len("gen-")+5)
	check(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "gen"}))
	same("encodings", heard.all(), []string{"< " + protobuf, "> ", "> " + protobuf})
	big := configMap("big", nil)
	big.Data["a"] = strings.Repeat("x", 1<<20)
	_, err = maps.Create(ctx, big, metav1.CreateOptions{})
	refused("more than a megabyte", errors.IsInvalid, err)
	_, err = loose.Resource(corev1.SchemeGroupVersion.WithResource("nonsense")).Namespace(ns).List(ctx, metav1.ListOptions{})
	refused("no such resource", errors.IsNotFound, err)
}

func patchesAndApply(ctx context.Context) {
	maps := typed.CoreV1().ConfigMaps(ns)
	must(maps.Create(ctx, configMap("patched", nil), metav1.CreateOptions{}))
	for kind, patch := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op":"add","path":"/data/k","value":"%s"}]`,
		types.MergePatchType:          `{"data":{"k":"%s"}}`,
		types.StrategicMergePatchType: `{"data":{"k":"%s"}}`,
		types.ApplyYAMLPatchType:      `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"%s"}}`,
	} {
		options := metav1.PatchOptions{}
		if kind == types.ApplyYAMLPatchType {
			options.FieldManager, options.Force = "go-patch", ptr(true)
		}
		patched := must(maps.Patch(ctx, "patched", kind, fmt.Appendf(nil, patch, kind), options))
		same("patched", patched.Data["k"], string(kind))
	}
	_, err := maps.Patch(ctx, "patched", "application/nonsense", []byte("{}"), metav1.PatchOptions{})
	refused("an unknown patch", errors.IsUnsupportedMediaType, err)
	wanted := applycorev1.ConfigMap("applied", ns).WithData(map[string]string{"a": "1"})
	must(maps.Apply(ctx, wanted, metav1.ApplyOptions{FieldManager: "one"}))
	_, err = maps.Apply(ctx, applycorev1.ConfigMap("applied", ns).WithData(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two"})
	refused("another's field", errors.IsConflict, err)
	other := must(maps.Apply(ctx, applycorev1.ConfigMap("applied", ns).WithData(map[string]string{"b": "2"}), metav1.ApplyOptions{FieldManager: "two"}))
	same("both", other.Data, map[string]string{"a": "1", "b": "2"})
	mine := must(applycorev1.ExtractConfigMap(other, "two"))
	same("extracted", mine.Data, map[string]string{"b": "2"})
	left := must(maps.Apply(ctx, applycorev1.ConfigMap("applied", ns), metav1.ApplyOptions{FieldManager: "one"}))
	same("given up", left.Data, map[string]string{"b": "2"})
}

func scaleAndStatus(ctx context.Context) {
	sets := typed.AppsV1().Deployments(ns)
	labels := map[string]string{"app": "sized"}
	must(sets.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "sized"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}}}, metav1.CreateOptions{}))
	scaled := must(sets.UpdateScale(ctx, "sized", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "sized", Namespace: ns},
		Spec: autoscalingv1.ScaleSpec{Replicas: 1}}, metav1.UpdateOptions{}))
	same("selector", []any{scaled.Spec.Replicas, scaled.Status.Selector}, []any{int32(1), "app=sized"})
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(found))
	scales := must(scale.NewForConfig(plain, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(found))).Scales(ns)
	resource := schema.GroupResource{Group: "apps", Resource: "deployments"}
	same("any scale", must(scales.Get(ctx, resource, "sized", metav1.GetOptions{})).Spec.Replicas, int32(1))
	must(scales.Patch(ctx, appsv1.SchemeGroupVersion.WithResource("deployments"), "sized", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}))
	eventually(ctx, "two ready pods", func() bool { return must(sets.Get(ctx, "sized", metav1.GetOptions{})).Status.ReadyReplicas == 2 })
	check(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		object := must(sets.Get(ctx, "sized", metav1.GetOptions{}))
		object.Spec.Replicas = ptr(int32(9))
		object.Status.Conditions = append(object.Status.Conditions, appsv1.DeploymentCondition{Type: "Ours", Status: corev1.ConditionTrue})
		updated, err := sets.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		if err == nil {
			same("spec beside the status", *updated.Spec.Replicas, int32(2))
		}
		return err
	}))
}

func deletion(ctx context.Context) {
	sets := typed.AppsV1().Deployments(ns)
	check(sets.Delete(ctx, "sized", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationOrphan)}))
	eventually(ctx, "its end", func() bool { _, err := sets.Get(ctx, "sized", metav1.GetOptions{}); return errors.IsNotFound(err) })
	replicas := typed.AppsV1().ReplicaSets(ns)
	left := must(replicas.List(ctx, metav1.ListOptions{LabelSelector: "app=sized"})).Items
	same("orphans", len(left), 1)
	eventually(ctx, "no owner", func() bool {
		return len(must(replicas.Get(ctx, left[0].Name, metav1.GetOptions{})).OwnerReferences) == 0
	})
	check(replicas.Delete(ctx, left[0].Name, metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}))
	eventually(ctx, "no pods", func() bool {
		return len(must(typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=sized"})).Items) == 0
	})
	held := configMap("held", nil)
	held.Finalizers = []string{"corten.dev/held"}
	maps := typed.CoreV1().ConfigMaps(ns)
	must(maps.Create(ctx, held, metav1.CreateOptions{}))
	check(maps.Delete(ctx, "held", metav1.DeleteOptions{}))
	holds("a time of deletion", must(maps.Get(ctx, "held", metav1.GetOptions{})).DeletionTimestamp != nil)
	must(maps.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	_, err := maps.Get(ctx, "held", metav1.GetOptions{})
	refused("let go", errors.IsNotFound, err)
}

func eventRecorder(ctx context.Context) {
	object := must(typed.CoreV1().ConfigMaps(ns).Create(ctx, configMap("happening", nil), metav1.CreateOptions{}))
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: typed.CoreV1().Events(ns)})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "go"})
	for range 3 {
		recorder.Event(object, corev1.EventTypeNormal, "Happened", "again")
	}
	eventually(ctx, "three in one event", func() bool {
		events := must(typed.CoreV1().Events(ns).Search(scheme.Scheme, object)).Items
		return len(events) == 1 && events[0].Count == 3
	})
}

func accounts(ctx context.Context) {
	token := must(typed.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(600))}}, metav1.CreateOptions{}))
	name := "system:serviceaccount:" + ns + ":default"
	config := rest.AnonymousClientConfig(settings)
	config.BearerToken = token.Status.Token
	account := must(kubernetes.NewForConfig(config))
	me := must(account.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	same("whoami", me.Status.UserInfo.Username, name)
	_, err := account.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	refused("its list", errors.IsForbidden, err)
	review := must(typed.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{}))
	same("review", []any{review.Status.Authenticated, review.Status.User.Username}, []any{true, name})
	may := must(typed.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: name, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "list", Resource: "pods", Namespace: ns}}}, metav1.CreateOptions{}))
	same("may", may.Status.Allowed, false)
	acting := rest.CopyConfig(settings)
	acting.Impersonate = rest.ImpersonationConfig{UserName: "somebody"}
	_, err = must(kubernetes.NewForConfig(acting)).CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	refused("somebody's list", errors.IsForbidden, err)
	config.BearerToken = "nonsense"
	_, err = must(kubernetes.NewForConfig(config)).CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	refused("a bad token", errors.IsUnauthorized, err)
	_, err = typed.CoreV1().Pods("no-such-namespace").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: podSpec()}, metav1.CreateOptions{})
	refused("a namespace that is not there", errors.IsNotFound, err)
	holds("no match", !meta.IsNoMatchError(err))
}

func election(ctx context.Context) {
	led := make(chan string, 2)
	candidate := func(ctx context.Context, identity string) {
		lock := must(resourcelock.New(resourcelock.LeasesResourceLock, ns, "leader", typed.CoreV1(), typed.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: identity}))
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 60 * time.Second, RenewDeadline: 40 * time.Second, RetryPeriod: time.Second, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { led <- identity },
				OnStoppedLeading: func() {},
			}})
	}
	first, resign := context.WithCancel(ctx)
	go candidate(first, "first")
	same("leader", next(ctx, "a leader", led), "first")
	second, stop := context.WithCancel(ctx)
	defer stop()
	go candidate(second, "second")
	lease := must(typed.CoordinationV1().Leases(ns).Get(ctx, "leader", metav1.GetOptions{}))
	same("holder", *lease.Spec.HolderIdentity, "first")
	resign()
	same("next leader", next(ctx, "another leader", led), "second")
	lease = must(typed.CoordinationV1().Leases(ns).Get(ctx, "leader", metav1.GetOptions{}))
	holds("transitions", *lease.Spec.LeaseTransitions >= 1)
}
