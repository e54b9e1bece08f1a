// Logs, exec, attach and port-forward, over WebSocket and over SPDY.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var _ httpstream.Dialer // the interface of both dialers below

func streams(ctx context.Context) {
	pods := typed.CoreV1().Pods(ns)
	must(pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "server", Labels: map[string]string{"app": "server"}}, Spec: podSpec()}, metav1.CreateOptions{}))
	eventually(ctx, "a ready pod", func() bool {
		for _, condition := range must(pods.Get(ctx, "server", metav1.GetOptions{})).Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
	eventually(ctx, "both lines", func() bool {
		return string(must(pods.GetLogs("server", &corev1.PodLogOptions{}).DoRaw(ctx))) == "line one\nline two\n"
	})
	follow := must(pods.GetLogs("server", &corev1.PodLogOptions{Follow: true, TailLines: ptr(int64(1))}).Stream(ctx))
	line := make([]byte, len("line two\n"))
	must(io.ReadFull(follow, line))
	follow.Close()
	same("followed", string(line), "line two\n")
	for _, transport := range []string{"websocket", "spdy"} {
		execute(ctx, transport)
		forward(ctx, transport)
	}
	body := must(typed.CoreV1().Pods(ns).ProxyGet("http", "server", "8080", "/index.html", nil).DoRaw(ctx))
	same("proxied", string(body), "hello\n")
	check(pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "server", Namespace: ns}}))
	eventually(ctx, "its end", func() bool { _, err := pods.Get(ctx, "server", metav1.GetOptions{}); return errors.IsNotFound(err) })
}

func executor(transport string, options *corev1.PodExecOptions) remotecommand.Executor {
	request := typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("server").SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec)
	if transport == "spdy" {
		return must(remotecommand.NewSPDYExecutor(plain, http.MethodPost, request.URL()))
	}
	return must(remotecommand.NewWebSocketExecutor(plain, http.MethodGet, request.URL().String()))
}

func execute(ctx context.Context, transport string) {
	var out, err bytes.Buffer
	both := executor(transport, &corev1.PodExecOptions{Command: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, Stdout: true, Stderr: true})
	failure := both.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &err})
	code, ok := failure.(exec.CodeExitError)
	holds(fmt.Sprint(transport, " code: ", failure), ok && code.Code == 3)
	same(transport, []string{out.String(), err.String()}, []string{"out\n", "err\n"})
	// A megabyte there and back: windows of flow control fill, and the end of the input goes through.
	out.Reset()
	long := strings.Repeat("0123456789abcdef", 1<<16)
	cat := executor(transport, &corev1.PodExecOptions{Command: []string{"cat"}, Stdin: true, Stdout: true})
	check(cat.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(long), Stdout: &out}))
	holds(fmt.Sprint(transport, " returned ", out.Len()), out.String() == long)
}

func forward(ctx context.Context, transport string) {
	target := typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("server").SubResource("portforward").URL()
	dialer := must(dial(transport, target))
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder := must(portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard))
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		panic(err)
	case <-ctx.Done():
		panic("waited in vain: the port")
	}
	port := must(forwarder.GetPorts())[0].Local
	for range 3 {
		request := must(http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://127.0.0.1:%d/", port), nil))
		request.Close = true
		answer := must(http.DefaultClient.Do(request))
		same(transport, string(must(io.ReadAll(answer.Body))), "hello\n")
		answer.Body.Close()
	}
	close(stop)
	check(<-failed)
}

func dial(transport string, target *url.URL) (httpstream.Dialer, error) {
	if transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialer(target, plain)
	}
	round, upgrader, err := spdy.RoundTripperFor(plain)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: round}, http.MethodPost, target), nil
}
