"""What both Python programs share: cases by name, waiting, and the pod that they talk to."""

import sys
import time
import traceback

PATIENCE = 180
CASES = []

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "server", "labels": {"app": "server"}},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "web",
                "image": "busybox:1.35",
                "command": ["sh", "-c"],
                "args": ["mkdir /www; echo hello >/www/index.html; echo line one; echo line two; exec httpd -f -p 8080 -h /www"],
                "ports": [{"containerPort": 8080}],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
            }
        ],
    },
}


def case(function):
    """A case: runs in the order in which the file names them."""
    CASES.append(function)
    return function


def eventually(what, look):
    """Looks until there is an answer that counts as true."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE} s in vain: {what}")
        time.sleep(0.1)


def run():
    """All cases, or those that the command line names; ends with the number of failures."""
    wanted = sys.argv[1:]
    failed = 0
    for function in CASES:
        if wanted and function.__name__ not in wanted:
            continue
        start = time.monotonic()
        try:
            function()
            print(f"ok {function.__name__} {time.monotonic() - start:.1f}", flush=True)
        except BaseException:  # a client that calls sys.exit must not hide the other cases
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
    sys.stdout.flush()
    sys.exit(min(failed, 100))
