// The connection to /ws: asks for the token if there is one, notices silence, and comes back when it is lost.

const KEY = "fasttail-token";
const FIRST_RETRY_MS = 500, LONGEST_RETRY_MS = 5000;
const SILENCE_MS = 5000; // a summary comes each second

const address = (path) => new URL(path, document.baseURI);

export class Connection {
  // onMessage(channel, data), onState(text, connected), onToken(reason): the token is missing or wrong
  constructor(channels, { onMessage, onState, onToken }) {
    this.channels = channels;
    this.on = { onMessage, onState, onToken };
    this.retryMs = FIRST_RETRY_MS;
    this.attempt = 0; // the last one, which alone may go on
  }

  setToken(text) {
    const token = text.trim();
    if (!/^[\x21-\x7e]+$/.test(token)) return this.on.onToken("A token has no blanks, and no letters beyond ASCII.");
    sessionStorage.setItem(KEY, token);
    this.retryMs = FIRST_RETRY_MS;
    return this.connect();
  }

  close() {
    clearTimeout(this.timer);
    if (this.socket) this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket?.close();
    this.socket = null;
  }

  async connect() {
    const attempt = ++this.attempt, token = sessionStorage.getItem(KEY);
    this.close();
    let status;
    try { // A browser does not tell why a WebSocket was refused, but it does so here.
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      ({ status } = await fetch(address("ws/status"), { headers, cache: "no-store", signal: AbortSignal.timeout(SILENCE_MS) }));
    } catch {
      status = null;
    }
    if (attempt !== this.attempt) return;
    if (status === 401) {
      sessionStorage.removeItem(KEY);
      this.on.onToken(token ? "This token is wrong." : "");
    } else if (status === null || status >= 500) {
      this.retry(status === null ? "The server does not answer." : `The server answers ${status}.`);
    } else {
      this.open(token);
    }
  }

  open(token) {
    const url = address("ws");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (token) url.search = `token=${encodeURIComponent(token)}`;
    const socket = this.socket = new WebSocket(url);
    let lost = "The server refuses the connection: it has too many clients, or does not allow this origin.";
    const expect = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.retry("The server is silent."), SILENCE_MS);
    };
    expect();
    socket.onopen = () => {
      lost = "The connection is lost.";
      for (const type of this.channels) socket.send(JSON.stringify({ method: "subscribe", subscription: { type } }));
    };
    socket.onmessage = (event) => {
      expect();
      const { channel, data } = JSON.parse(event.data);
      if (channel === "error") {
        this.close();
        this.on.onState(String(data), false);
        return;
      }
      if (channel === this.channels[0]) {
        this.retryMs = FIRST_RETRY_MS;
        this.on.onState("Connected", true);
      }
      this.on.onMessage(channel, data);
    };
    socket.onclose = () => this.retry(lost);
  }

  retry(reason) {
    this.close();
    this.on.onState(`${reason} Trying again …`, false);
    this.timer = setTimeout(() => this.connect(), this.retryMs);
    this.retryMs = Math.min(2 * this.retryMs, LONGEST_RETRY_MS);
  }
}
