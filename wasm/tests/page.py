"""The page in headless Chromium: the text that it writes behind a prompt, without randomness.

python3 page.py CHROMIUM FOLDER MODEL PROMPT N
The folder, which is served to the browser, holds the page, its script, the module and the model.
"""

import functools
import html.parser
import http.server
import subprocess
import sys
import tempfile
import threading
import urllib.parse

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --dump-dom --virtual-time-budget=600000"
).split()


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


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main(chromium, folder, model, prompt, n):
    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = urllib.parse.urlencode({"model": model, "prompt": prompt, "n": n, "temp": 0})
    url = f"http://127.0.0.1:{server.server_port}/index.html?{query}"
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", url]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    page = Page(done.stdout.decode())
    if not page.ready or not page.at["b"]:
        sys.exit(f"the page isn't done: {page.at}\n{done.stderr.decode()[-2000:]}")
    print(page.at["b"])


main(*sys.argv[1:])
