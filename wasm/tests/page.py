"""The page in headless Chromium: the text that it writes behind a prompt, without randomness.

python3 page.py CHROMIUM FOLDER MODEL PROMPT N
The folder, which is served to the browser, holds the page, its script, the module and the model. The page
gets a script more, which sends what it shows when it is done: `--dump-dom` doesn't wait for a module's work.
"""

import functools
import html.parser
import http.server
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SECONDS = 120

REPORT = b"""<script>
  const timer = setInterval(() => {
    if (document.body.dataset.ready === undefined) return;
    clearInterval(timer);
    fetch("/done", { method: "POST", body: document.documentElement.outerHTML });
  }, 50);
</script>"""


class Page(html.parser.HTMLParser):
    """What is in the page's text, in its status, and whether it is done."""

    def __init__(self, source):
        super().__init__()
        self.open, self.at, self.ready = [], {"b": "", "status": ""}, False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.open.append((tag, attrs.get("id", tag)))
        self.ready |= tag == "body" and "data-ready" in attrs

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1][1] in self.at:
            self.at[self.open[-1][1]] += data


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the folder, and takes the page's report."""

    reports = queue.Queue()

    def do_GET(self):
        if not self.path.startswith("/index.html"):
            return super().do_GET()
        with open(f"{self.directory}/index.html", "rb") as file:
            page = file.read() + REPORT
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        self.reports.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def main(chromium, folder, model, prompt, n):
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = urllib.parse.urlencode({"model": model, "prompt": prompt, "n": n, "temp": 0})
    url = f"http://127.0.0.1:{server.server_port}/index.html?{query}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, open(f"{profile}/log", "w+") as log:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", url]
        browser = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            page = Page(Handler.reports.get(timeout=SECONDS).decode())
        except queue.Empty:
            log.seek(0)
            sys.exit(f"no word of the page in {SECONDS} s\n{log.read()[-2000:]}")
        finally:
            # Its children too, which write into the folder that goes now.
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    if not page.ready or not page.at["b"]:
        sys.exit(f"the page isn't done: {page.at}")
    print(page.at["b"])


main(*sys.argv[1:])
