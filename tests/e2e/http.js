// A server of Node's own HTTP/1.1, which does what a path says: what a proxy has to carry unchanged.
// Prints {"event": "ready", "port": ...} once it accepts connections.

'use strict'

const http = require('http')
const zlib = require('zlib')

// What bodies of 1 GiB are made of: no piece of the network's size repeats in it.
const PERIOD = 65521
const pattern = Buffer.alloc((1 << 20) + PERIOD)
for (let i = 0; i < pattern.length; i++) pattern[i] = ((i % PERIOD) * 167 + ((i % PERIOD) >> 8)) & 0xff

let waiting = []
let wanted = []

// Hand an answer that waits to who asked for it, whoever comes first.
function meet() {
  while (waiting.length && wanted.length) wanted.shift()(waiting.shift())
}

function park(res) {
  waiting.push(res)
  meet()
}

// Asked for the next answer whose client has gone: says so.
let left = 0
let mourners = []

function mourn() {
  for (; left && mourners.length; left--) mourners.shift().end()
}

function watch(res) {
  res.on('close', () => {
    if (res.writableEnded) return
    waiting = waiting.filter((one) => one !== res)
    left++
    mourn()
  })
}

async function whole(req) {
  const pieces = []
  for await (const piece of req) pieces.push(piece)
  return Buffer.concat(pieces)
}

const paths = {
  // What arrived, as it arrived.
  async seen(req, res) {
    const body = await whole(req)
    const { method, url, rawHeaders, rawTrailers } = req
    const text = JSON.stringify({ method, url, rawHeaders, rawTrailers, body: body.toString('latin1') })
    res.writeHead(200, 'Seen', ['Content-Type', 'application/json', 'Content-Length', Buffer.byteLength(text)])
    res.end(text)
  },

  // Piece by piece, trailers too for who says that it takes them (RFC 9110 section 6.5.1).
  async echo(req, res) {
    const trailing = req.headers.te === 'trailers' && req.method !== 'HEAD'
    const type = req.headers['content-type'] || 'text/plain'
    res.writeHead(200, { 'Content-Type': type, ...(trailing ? { Trailer: 'X-End' } : {}) })
    res.flushHeaders()
    for await (const piece of req) res.write(piece)
    const trailers = []
    for (let i = 0; i < req.rawTrailers.length; i += 2) trailers.push([req.rawTrailers[i], req.rawTrailers[i + 1]])
    if (trailing) res.addTrailers([['X-End', 'yes'], ...trailers])
    res.end()
  },

  async length(req, res) {
    const body = await whole(req)
    res.setHeader('Content-Length', body.length)
    res.end(body)
  },

  lines(req, res) {
    res.writeHead(200, 'All  of\tthem', [
      'X-First', '1', 'Set-Cookie', 'a=1; Path=/', 'x-lower', 'b', 'Set-Cookie', 'b=2', 'X-SHOUT', 'c', 'X-Empty', '',
      'Vary', 'Origin', 'Set-Cookie', 'c=3', 'Vary', 'Accept', 'X-Latin', 'caf\u00e9', 'X-Comma', 'a, b,,c',
      'Server', 'a server', 'Location', '/else where', 'Cache-Control', 'no-transform', 'Content-Length', '2',
    ])
    res.end('ok')
  },

  many(req, res, query) {
    const lines = []
    for (let i = 0; i < query.n; i++) lines.push(`X-Line-${i}`, 'v'.repeat(Number(query.size)))
    res.writeHead(200, [...lines, 'Content-Length', '0'])
    res.end()
  },

  status(req, res, query) {
    res.writeHead(Number(query.code), { ETag: '"abc"', ...(query.length ? { 'Content-Length': query.length } : {}) })
    res.end()
  },

  gzip(req, res) {
    const body = zlib.gzipSync('to be left alone '.repeat(1000))
    res.writeHead(200, { 'Content-Encoding': 'gzip', 'Content-Type': 'text/plain', 'Content-Length': body.length, ETag: '"z"' })
    res.end(body)
  },

  hints(req, res) {
    res.writeProcessing()
    res.writeEarlyHints({ link: ['</a.css>; rel=preload', '</b.js>; rel=preload'], 'x-hint': 'yes' })
    res.end('hinted')
  },

  // The answer comes before the body is read, and the connection ends with it.
  early(req, res) {
    res.writeHead(413, 'Too much', { Connection: 'close', 'Content-Length': 3 })
    res.end('no\n')
  },

  // The same, but the body is read after it.
  eager(req, res) {
    res.writeHead(200, { 'Content-Length': 6 })
    res.end('eager\n')
    req.resume()
  },

  // As long as the connection.
  endless(req, res) {
    res.useChunkedEncodingByDefault = false
    res.writeHead(200, { Connection: 'close', 'Content-Type': 'text/plain' })
    res.end('until the end')
  },

  cut(req, res, query) {
    res.writeHead(200, query.chunked ? {} : { 'Content-Length': 1000 })
    res.write('half of it', () => res.socket.end())
  },

  // One event at once, each other one when `next` asks for it.
  events(req, res) {
    res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' })
    res.write('data: 0\n\n')
    watch(res)
    park(res)
  },

  poll(req, res) {
    watch(res)
    park(res)
  },

  // Answered as soon as somebody waits.
  parked(req, res) {
    wanted.push((one) => {
      waiting.unshift(one)
      res.end()
    })
    meet()
  },

  gone(req, res) {
    mourners.push(res)
    mourn()
  },

  next(req, res, query) {
    wanted.push((one) => {
      one.write(`data: ${query.n}\n\n`, () => {
        park(one)
        res.end()
      })
    })
    meet()
  },

  release(req, res) {
    wanted.push((one) => {
      one.end('released\n')
      res.end()
    })
    meet()
  },

  async sink(req, res) {
    let size = 0
    for await (const piece of req) {
      for (let at = 0; at < piece.length; ) {
        const n = Math.min(piece.length - at, pattern.length - PERIOD)
        const from = (size + at) % PERIOD
        if (pattern.compare(piece, at, at + n, from, from + n) !== 0) throw new Error(`changed near ${size + at}`)
        at += n
      }
      size += piece.length
    }
    res.end(`${size}\n`)
  },

  async source(req, res, query) {
    if (query.length) res.setHeader('Content-Length', query.n)
    for (let size = 0; size < query.n; ) {
      const from = size % PERIOD
      const n = Math.min(query.n - size, 1 << 18)
      size += n
      if (!res.write(pattern.subarray(from, from + n))) await new Promise((done) => res.once('drain', done))
    }
    res.end()
  },
}

async function answer(req, res) {
  const url = new URL(req.url, 'http://localhost')
  const query = Object.fromEntries(url.searchParams)
  const name = url.pathname.split('/')[1]
  if (Object.hasOwn(paths, name)) return paths[name](req, res, query)
  res.writeHead(404, { 'Content-Length': 5 })
  res.end('none\n')
}

// A body that was cut short, or changed, is an error of one exchange.
function serve(req, res) {
  answer(req, res).catch((error) => {
    console.error(String(error))
    res.destroy()
  })
}

// 100 is for the application to say, or not: who has the body already needs none.
function expected(req, res) {
  if (req.url.startsWith('/early')) return serve(req, res)
  if (req.url.startsWith('/refused')) {
    res.writeHead(417, { Connection: 'close', 'Content-Length': 0 })
    return res.end()
  }
  if (!req.url.endsWith('?sent')) res.writeContinue()
  return serve(req, res)
}

const server = http.createServer({ keepAliveTimeout: 60000, requestTimeout: 0, maxHeaderSize: 65536 }, serve)
server.on('checkContinue', expected)
server.on('clientError', (error, socket) => socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'))
server.maxHeadersCount = 0
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(JSON.stringify({ event: 'ready', port: server.address().port }) + '\n')
})
