"""POST JSON to a server, within a deadline, with retries, without a key or a password in any error."""

import base64
import errno
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request


class Unavailable(OSError):
    """A server or worker does not do its part. The message is its name and the cause: of a URL scheme, host, port and path, never a key or a password."""

    def __init__(self, server: str, cause: str):
        super().__init__(f"{server}: {cause}")
        self.cause = cause


# bytes
MAX_ANSWER = 1 << 24


TOO_LONG = "the answer is too long"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        """A redirect is an error: the headers, with their keys, would go to whatever host it names."""


def post_json(
    url: str,
    payload: object,
    headers: dict | None = None,
    timeout: float = 30.0,
    retries: int = 3,
    backoff: float = 0.5,
) -> object:
    """POST JSON, return the JSON that is answered.

    Args:    url: http or https; user:password@ becomes basic authentication. timeout: seconds for the whole of one attempt.
             retries: further attempts after HTTP 429, 500, 502, 503, 504, a connection that fails or breaks, a timeout, or an answer of more than
             16 MB; before the k-th of them a pause of backoff * 2^(k-1) seconds.
    Raises:  Unavailable for what is left after the retries and for everything else a server can do: another status, an answer that is not JSON.
             ValueError for another kind of URL.
    """
    server, target, credentials = split_url(url)
    if retries < 0 or timeout <= 0:
        raise ValueError(
            f"retries must be >= 0 and timeout > 0 seconds, got {retries} and {timeout}"
        )
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "appo",
        **credentials,
        **(headers or {}),
    }
    for attempt in range(retries + 1):
        try:
            data = _attempt(
                urllib.request.Request(target, json.dumps(payload).encode(), headers), timeout
            )
            break
        except (OSError, http.client.HTTPException, ValueError) as problem:
            lasting = isinstance(problem, ValueError) or getattr(problem, "code", 503) not in (
                429,
                500,
                502,
                503,
                504,
            )
            if lasting or attempt == retries:
                raise Unavailable(server, _cause(problem, timeout)) from None
        time.sleep(backoff * 2**attempt)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unavailable(server, "the answer is not JSON") from None


def split_url(url: str) -> tuple[str, str, dict]:
    """(what may be shown of a URL, the URL to open, the headers for its user:password).

    Raises: ValueError if it is not an http(s) URL; it quotes nothing that may be a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        fine = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and not re.search(r"\s", url)
            and (parts.port or True)
        )
    except ValueError:
        fine = False
    if not fine or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(
            "not a URL of the form http(s)://host:port/path (in user:password@ the characters / ? # @ are written %2F %3F %23 %40)"
        )
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{host}{parts.path}"
    basic = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return (
        shown,
        parts._replace(netloc=host).geturl(),
        {"Authorization": f"Basic {basic}"} if user else {},
    )


def _attempt(request: urllib.request.Request, timeout: float) -> bytes:
    """One POST and its whole answer. In a thread of its own, since no socket timeout bounds the look-up of a name or headers that trickle."""
    deadline, box = time.monotonic() + timeout, []

    def work():
        try:
            with urllib.request.build_opener(_NoRedirect).open(
                request, timeout=timeout
            ) as response:
                data = bytearray()
                while piece := response.read1(1 << 16):
                    data += piece
                    if len(data) > MAX_ANSWER or time.monotonic() > deadline:
                        raise (
                            OSError(errno.EFBIG, TOO_LONG)
                            if len(data) > MAX_ANSWER
                            else TimeoutError
                        )
                if response.length:
                    raise ConnectionError(errno.ECONNRESET, "the answer broke off")
                box.append(bytes(data))
        except (OSError, http.client.HTTPException, ValueError) as problem:
            if isinstance(problem, urllib.error.HTTPError):
                problem.close()
            box.append(problem)

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError as problem:
        raise OSError(errno.EAGAIN, str(problem)) from None
    thread.join(timeout)
    if not box:
        raise TimeoutError
    if isinstance(box[0], bytes):
        return box[0]
    raise box[0]


def _cause(problem: Exception, timeout: float) -> str:
    """What went wrong, in words that hold nothing of the URL and the headers (messages of urllib may quote both)."""
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP {problem.code} {http.client.responses.get(problem.code, '')}".strip()
    reason = problem.reason if isinstance(getattr(problem, "reason", None), OSError) else problem
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout:g} s"
    return getattr(reason, "strerror", None) or type(reason).__name__
