/* Browsers start no workers for pages from file://. The script of the search runs in a hidden frame there. As from a worker,
   messages are copies and arrive later: the search empties its field when an answer comes at once. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.worker = this
      this.frame.srcdoc =
        `<script>postMessage = data => frameElement.worker.receive(data)</script><script src="${url}"></script>`
      this.loaded = new Promise(resolve => (this.frame.onload = resolve))
      document.body.append(this.frame)
    }

    async postMessage(data) {
      data = structuredClone(data)
      await this.loaded
      this.frame.contentWindow?.dispatchEvent(new MessageEvent("message", { data }))
    }

    receive(data) {
      const event = new MessageEvent("message", { data: structuredClone(data) })
      setTimeout(() => {
        this.onmessage?.(event)
        this.dispatchEvent(event)
      })
    }

    terminate() {
      this.frame.remove()
    }
  }
}
