// Node's `ws`, the client that most of Node uses: opens a session, sends one message, prints as hex
// what comes back, and the code with which the session ended.
// Usage: node ws.js URL CA_FILE TLS_VERSION HEX

'use strict'

const fs = require('fs')
const WebSocket = require('ws')

const [url, caFile, version, hex] = process.argv.slice(2)
const socket = new WebSocket(url, { ca: fs.readFileSync(caFile), minVersion: version, maxVersion: version })
const found = {}

socket.on('open', () => socket.send(Buffer.from(hex, 'hex')))
socket.on('message', (data) => {
  found.answer = Buffer.from(data).toString('hex')
  socket.close(1000)
})
socket.on('close', (code) => console.log(JSON.stringify({ ...found, code })))
