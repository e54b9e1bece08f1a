// What all cases share: cases by name, waiting, and the pod that they talk to.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const patience = 180 * time.Second

type testCase struct {
	name string
	run  func(ctx context.Context)
}

// run runs the cases in order; each has a deadline. It returns the number of failures.
func run(cases []testCase, wanted []string) (failures int) {
	for _, c := range cases {
		if len(wanted) > 0 && wanted[0] != c.name {
			continue
		}
		start := time.Now()
		if problem := attempt(c); problem != "" {
			failures++
			fmt.Printf("FAILED %s\n%s\n", c.name, problem)
		} else {
			fmt.Printf("ok %s %.1f\n", c.name, time.Since(start).Seconds())
		}
	}
	return failures
}

func attempt(c testCase) (problem string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			problem = fmt.Sprintf("%v\n%s", r, debug.Stack())
		}
	}()
	c.run(ctx)
	return ""
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func same(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		panic(fmt.Sprintf("%s: %v, should be %v", what, got, want))
	}
}

func holds(what string, yes bool) {
	if !yes {
		panic(what)
	}
}

// refused panics unless the error is of that sort.
func refused(what string, is func(error) bool, err error) {
	if err == nil || !is(err) {
		panic(fmt.Sprintf("%s: %v", what, err))
	}
}

func eventually(ctx context.Context, what string, look func() bool) {
	for !look() {
		select {
		case <-ctx.Done():
			panic("waited in vain: " + what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func next[T any](ctx context.Context, what string, from <-chan T) T {
	select {
	case value, open := <-from:
		holds(what+": the channel is closed", open)
		return value
	case <-ctx.Done():
		panic("waited in vain: " + what)
	}
}

func environment(name string) string {
	value := os.Getenv(name)
	holds("$"+name+" is set", value != "")
	return value
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Data:       map[string]string{"a": "1"},
		BinaryData: map[string][]byte{"bytes": {0, 1, 255}},
	}
}

func podSpec() corev1.PodSpec {
	grace := int64(0)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name:    "web",
			Image:   "busybox:1.35",
			Command: []string{"sh", "-c"},
			Args:    []string{"mkdir /www; echo hello >/www/index.html; echo line one; echo line two; exec httpd -f -p 8080 -h /www"},
			ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}},
		}},
	}
}
