"""POST JSON to a server: within a deadline, with retries, with no key or password in an error.

1. `split_url` parts a URL into what may be shown, what is opened and the credentials.
2. `post_json` makes up to retries + 1 attempts, with growing pauses between them.
3. `_attempt` is one POST by requests, in a thread: a deadline for the whole of it.
4. `_cause` says what went wrong, in words that quote nothing of the request.
"""

import base64
import errno
import http.client
import json
import re
import threading
import time
import urllib.parse

# bytes
MAX_ANSWER = 1 << 24
TOO_LONG = "the answer is too long"
# HTTP statuses that may be gone at the next attempt
PASSING = (408, 425, 429, 500, 502, 503, 504, 507, 520, 524, 529)
# HTTP statuses that may be the fault of what was asked
REFUSING = (400, 413, 414, 422, 500)
# those that may be its fault or the server's, as a time-out may
UNCLEAR = (403, 404, 408, 425, 429, 451, 501, 502, 503, 504, 507, 520, 524, 529)


class Unavailable(OSError):
    """A server or worker does not do its part.

    The message is its name and the cause: of a URL scheme, host, port and path, never a key or a
    password. down: whatever is asked, the answer would be the same; None: that is not clear.
    """

    def __init__(self, server: str, cause: str, down: bool | None = False):
        super().__init__(f"{server}: {cause}")
        self.cause = cause
        self.down = down


class _NotJSON(OSError):
    """An answer that was to be JSON."""


class _Status(OSError):
    """An HTTP status that is no success. A redirect is one too, see _attempt."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"HTTP {code} {http.client.responses.get(code, '')}".strip())


def post_json(
    url: str,
    payload: object,
    headers: dict | None = None,
    timeout: float = 30.0,
    retries: int = 3,
    backoff: float = 0.5,
) -> object:
    """POST JSON, return the JSON that is answered.

    Args:    url: http or https; user:password@ becomes basic authentication. timeout: seconds for
             the whole of one attempt. retries: further attempts after HTTP statuses of PASSING,
             a connection that fails or breaks, a timeout, an answer that is too long (16 MB) or
             not JSON; before the k-th, from the second on, backoff * 2^(k-1) seconds of pause.
    Raises:  Unavailable for what is left after the retries, and for another status. ValueError for
             another kind of URL.
    """
    server, target, credentials = split_url(url)
    if retries < 0 or timeout <= 0:
        raise ValueError(f"retries must be >= 0 and timeout > 0, got {retries} and {timeout}")
    # imported here: without a server nobody waits for it
    from urllib3.exceptions import MaxRetryError
    from urllib3.util import Retry

    own = {"Content-Type": "application/json", "User-Agent": "appo", **credentials}
    body, headers = json.dumps(payload).encode(), own | (headers or {})
    # it counts and pauses; by itself it would look at connection and headers only, not at the body
    left = Retry(retries, backoff_factor=backoff)
    while True:
        try:
            return _decoded(_attempt(target, body, headers, timeout))
        except (OSError, ValueError) as problem:
            failed = problem
        try:
            if not _may_pass(failed):
                raise MaxRetryError(None, server)
            left = left.increment(error=failed)
        except MaxRetryError:
            raise Unavailable(server, _cause(failed, timeout), _is_down(failed)) from None
        left.sleep()


def _decoded(answer: bytes) -> object:
    """The JSON of an answer."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise _NotJSON("the answer is not JSON") from None


def split_url(url: str) -> tuple[str, str, dict[str, str]]:
    """(what may be shown of a URL, the URL to open, the headers for its user:password).

    Raises: ValueError if it is not an http(s) URL; it quotes nothing that may be a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        # .port raises ValueError for what is no port
        named = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        fine = named and not re.search(r"\s", url)
    except ValueError:
        fine = False
    if not fine or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(
            "not a URL of the form http(s)://host:port/path (in user:password@ the characters "
            "/ ? # @ are written %2F %3F %23 %40)"
        )
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{host}{parts.path}"
    basic = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    headers = {"Authorization": f"Basic {basic}"} if user else {}
    return shown, parts._replace(netloc=host).geturl(), headers


def _attempt(url: str, body: bytes, headers: dict[str, str], timeout: float) -> bytes:
    """One POST and its whole answer, within `timeout` seconds. Raises OSError, ValueError."""
    import requests

    deadline, box = time.monotonic() + timeout, []

    def work():
        try:
            # a redirect is an error: the headers, with their keys, would go to any host it names;
            # auth stands in the headers, where without this function ~/.netrc would replace it
            with requests.post(
                url,
                body,
                headers=headers,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
                auth=lambda request: request,
            ) as response:
                box.append(_read(response, deadline))
        except (OSError, ValueError) as problem:
            box.append(problem)

    # a thread, since no socket timeout bounds the look-up of a name or headers that trickle
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


def _read(response, deadline: float) -> bytes:
    """The body of a response of requests. Raises OSError."""
    import urllib3

    if not 200 <= response.status_code < 300:
        raise _Status(response.status_code)
    data = bytearray()
    try:
        # read1, of urllib3 2, returns what has come; read waits for all that was asked for
        while piece := response.raw.read1(1 << 16, decode_content=True):
            data += piece
            if len(data) > MAX_ANSWER:
                raise OSError(errno.EFBIG, TOO_LONG)
            if time.monotonic() > deadline:
                raise TimeoutError
    except urllib3.exceptions.HTTPError as problem:
        raise ConnectionError("the answer broke off") from problem
    return bytes(data)


def _may_pass(problem: BaseException) -> bool:
    """May the same request succeed later? A ValueError is one that cannot be sent."""
    passing = not isinstance(problem, _Status) or problem.code in PASSING
    return passing and not isinstance(problem, ValueError)


def _is_down(problem: BaseException) -> bool | None:
    """Is it trouble that no other request would escape? None if that is not clear.

    False for an answer that broke off, say.
    """
    if isinstance(problem, _Status):
        return None if problem.code in UNCLEAR else problem.code not in REFUSING
    if isinstance(problem, _NotJSON):
        return False
    root = _root(problem)
    if isinstance(root, TimeoutError):
        return None
    broken = isinstance(root, (http.client.HTTPException, ConnectionResetError))
    return not broken and getattr(root, "errno", None) != errno.EFBIG


def _root(problem: BaseException) -> BaseException:
    """What lies under an exception: messages of requests and urllib3 quote the URL."""
    while problem.__cause__ or problem.__context__:
        problem = problem.__cause__ or problem.__context__
    return problem


def _cause(problem: BaseException, timeout: float) -> str:
    """What went wrong, in words that hold nothing of the URL and the headers."""
    if isinstance(problem, (_Status, _NotJSON)):
        return str(problem)
    problem = _root(problem)
    if isinstance(problem, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(problem, http.client.IncompleteRead):
        return "the answer broke off"
    return getattr(problem, "strerror", None) or type(problem).__name__
