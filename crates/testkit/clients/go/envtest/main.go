// Starts the binaries in KUBEBUILDER_ASSETS by controller-runtime's envtest, as tests of operators do, uses the API by client-go and
// stops them again.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const patience = 5 * time.Minute

func main() {
	if err := run(); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	environment := &envtest.Environment{
		ControlPlaneStartTimeout: patience,
		ControlPlaneStopTimeout:  patience,
		AttachControlPlaneOutput: true,
	}
	config, err := environment.Start()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer func() {
		if stopped := environment.Stop(); stopped != nil && err == nil {
			err = fmt.Errorf("stop: %w", stopped)
		}
		if err == nil {
			fmt.Println("ok stopped")
		}
	}()
	fmt.Println("ok started")
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := objects(ctx, client); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	fmt.Println("ok objects")
	if err := users(ctx, environment, client); err != nil {
		return fmt.Errorf("users: %w", err)
	}
	fmt.Println("ok users")
	return nil
}

// What an operator's test does first: a namespace, a config map, and a pod that nobody runs.
func objects(ctx context.Context, client kubernetes.Interface) error {
	core, name := client.CoreV1(), "envtest"
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := core.Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	watch, err := core.Pods(name).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer watch.Stop()
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"key": "value"}}
	if _, err := core.ConfigMaps(name).Create(ctx, config, metav1.CreateOptions{}); err != nil {
		return err
	}
	found, err := core.ConfigMaps(name).Get(ctx, "settings", metav1.GetOptions{})
	if err != nil || found.Data["key"] != "value" {
		return fmt.Errorf("config map: %v %v", found, err)
	}
	// No service account is there, and none is asked for: envtest disables that plugin.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	made, err := core.Pods(name).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil || made.Status.Phase != corev1.PodPending {
		return fmt.Errorf("pod: %v %v", made, err)
	}
	select {
	case event := <-watch.ResultChan():
		if seen, ok := event.Object.(*corev1.Pod); !ok || seen.Name != made.Name {
			return fmt.Errorf("watched %v", event)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// A user of envtest's own CA is bound by roles: nothing first, then what a role gives.
func users(ctx context.Context, environment *envtest.Environment, admin kubernetes.Interface) error {
	user, err := environment.AddUser(envtest.User{Name: "dev", Groups: []string{"devs"}}, &rest.Config{})
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(user.Config())
	if err != nil {
		return err
	}
	list := func() error {
		_, err := client.CoreV1().ConfigMaps("envtest").List(ctx, metav1.ListOptions{})
		return err
	}
	if err := list(); !apierrors.IsForbidden(err) {
		return fmt.Errorf("a user without a role: %v", err)
	}
	roles, one := admin.RbacV1(), metav1.ObjectMeta{Name: "readers"}
	role := &rbacv1.Role{ObjectMeta: one, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
	}}
	if _, err := roles.Roles("envtest").Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: one,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "readers"},
		Subjects:   []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "devs"}},
	}
	if _, err := roles.RoleBindings("envtest").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	return list()
}
