"""`helm test`: asks each replica of the operator how it is. Runs in the operator's image: HOST REPLICAS."""

import http.client
import socket
import sys
import time

PORT, SECONDS = 8080, 120


def states(host: str) -> dict[str, str]:
    """What /readyz of each replica says, by address."""
    found = {}
    for address in sorted({info[4][0] for info in socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)}):
        connection = http.client.HTTPConnection(address, PORT, timeout=5)
        connection.request("GET", "/readyz")
        found[address] = connection.getresponse().read().decode().strip()
        connection.close()
    return found


def main(host: str, replicas: int) -> None:
    deadline, told = time.monotonic() + SECONDS, ""
    while True:
        try:
            found = states(host)
            told = "\n".join(f"{address}: {state}" for address, state in found.items())
            ready = [state for state in found.values() if state.startswith("ok: ")]
            working = [state for state in ready if state.startswith("ok: working")]
            if len(ready) >= replicas and len(working) == 1:
                return print(told)
        except (OSError, http.client.HTTPException) as error:
            told = f"{host}: {error}"
        if time.monotonic() > deadline:
            sys.exit(f"not {replicas} ready replicas of which one works, after {SECONDS} s:\n{told}")
        time.sleep(1)


main(sys.argv[1], int(sys.argv[2]))
