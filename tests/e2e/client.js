// Many real deepstream clients, driven by one JSON command per line on stdin:
// {"id": 1, "op": "connect", ...} is answered by {"id": 1, "value": ...} or by
// {"id": 1, "error": "..."}. Commands that wait answer when what they wait for is there: deadlines
// are the caller's.

'use strict'

const { createHash } = require('crypto')
const { readFileSync } = require('fs')
const readline = require('readline')
const { DeepstreamClient } = require('@deepstream/client')

const sessions = new Map()

// What arrived so far, and promises of what has yet to.
class Inbox {
  constructor() {
    this.items = []
    this.waiting = []
  }

  add(item) {
    this.items.push(item)
    this.waiting = this.waiting.filter((check) => !check())
  }

  until(condition) {
    return new Promise((resolve) => {
      const check = () => condition(this.items) && (resolve(this.items), true)
      if (!check()) this.waiting.push(check)
    })
  }
}

class Session {
  constructor(name, url, options) {
    this.name = name
    this.states = new Inbox()
    this.errors = []
    this.inboxes = new Map()
    this.client = new DeepstreamClient(url, options)
    this.client.on('connectionStateChanged', (state) => this.states.add({ at: now(), state }))
    this.client.on('error', (message, event, topic) => this.fail(message, event, topic))
    this.client.on('MAX_RECONNECTION_ATTEMPTS_REACHED', (tries) => this.fail(tries, 'GAVE_UP'))
  }

  fail(message, event, topic) {
    const text = String((message && message.message) || message)
    this.errors.push({ at: now(), message: text, event, topic })
  }

  inbox(name) {
    if (!this.inboxes.has(name)) this.inboxes.set(name, new Inbox())
    return this.inboxes.get(name)
  }

  opened(times) {
    const isOpen = ({ state }) => state === 'OPEN'
    return this.states.until((items) => items.filter(isOpen).length >= times)
  }

  // A node works through one session's messages in order: when this query is answered, whatever
  // was sent before it (a subscription, say) has taken effect.
  settled() {
    return this.client.presence.getAll([this.name])
  }
}

// Seconds on the machine's monotonic clock.
function now() {
  return Number(process.hrtime.bigint()) / 1e9
}

function session(name) {
  const found = sessions.get(name)
  if (found === undefined) throw new Error(`there is no client ${name}`)
  return found
}

function each(names, action) {
  return Promise.all(names.map((name) => action(session(name))))
}

function digest(data) {
  return { length: data.length, sha256: createHash('sha256').update(data).digest('hex') }
}

// Text that doesn't repeat, so that a piece lost, doubled or swapped changes the digest.
function filler(size) {
  const hash = createHash('shake256', { outputLength: Math.ceil(size / 2) })
  return hash.update('filler').digest('hex').slice(0, size)
}

const operations = {
  connect({ url, count, prefix, ca, options }) {
    const socketOptions = ca === undefined ? {} : { ca: readFileSync(ca) }
    // The default gathers subscriptions for 100 ms; sent at once they can be waited for.
    const all = { subscriptionInterval: 0, socketOptions, ...options }
    const names = Array.from({ length: count }, (_, index) => `${prefix}-${index}`)
    names.forEach((name) => sessions.set(name, new Session(name, url, { ...all })))
    return names
  },

  async login({ clients }) {
    await each(clients, async (one) => {
      await one.client.login({ username: one.name })
      await one.opened(1)
    })
  },

  async close({ clients }) {
    await each(clients, (one) => {
      one.client.close()
      return one.states.until((items) => items[items.length - 1].state === 'CLOSED')
    })
    clients.forEach((name) => sessions.delete(name))
  },

  // Answers when each of these clients has reached OPEN so many times, its first login included.
  async opened({ clients, times }) {
    await each(clients, (one) => one.opened(times))
  },

  async reached({ clients, state }) {
    const isThere = (item) => item.state === state
    await each(clients, (one) => one.states.until((items) => items.some(isThere)))
  },

  async settled({ clients }) {
    await each(clients, (one) => one.settled())
  },

  history({ clients }) {
    return Object.fromEntries(clients.map(session).map((one) => (
      [one.name, { states: one.states.items, errors: one.errors }]
    )))
  },

  async received({ client, inbox, count }) {
    return session(client).inbox(inbox).until((items) => items.length >= count)
  },

  async 'record.get'({ client, record }) {
    const found = session(client).client.record.getRecord(record)
    await found.whenReady()
    return found.get()
  },

  async 'record.set'({ client, record, data }) {
    const found = session(client).client.record.getRecord(record)
    await found.whenReady()
    await found.setWithAck(data)
  },

  async 'record.subscribe'({ client, record }) {
    const one = session(client)
    const found = one.client.record.getRecord(record)
    await found.whenReady()
    found.subscribe((data) => one.inbox(record).add(data))
  },

  async 'event.subscribe'({ clients, event, digested }) {
    await each(clients, (one) => {
      const inbox = one.inbox(event)
      one.client.event.subscribe(event, (data) => inbox.add(digested ? digest(data) : data))
      return one.settled()
    })
  },

  async 'event.unsubscribe'({ client, event }) {
    session(client).client.event.unsubscribe(event)
    await session(client).settled()
  },

  'event.emit'({ client, event, data }) {
    session(client).client.event.emit(event, data)
  },

  'event.fill'({ client, event, size }) {
    const data = filler(size)
    session(client).client.event.emit(event, data)
    return digest(data)
  },

  // Each client has one event on its way at a time, so that the backlog is never in this process.
  async 'event.flood'({ clients, event, size, count }) {
    const data = filler(size)
    await each(clients, async (one) => {
      for (let sent = 0; sent < count; sent++) {
        one.client.event.emit(event, data)
        await one.settled()
      }
    })
  },

  async 'rpc.provide'({ client, rpc }) {
    const one = session(client)
    one.client.rpc.provide(rpc, (data, response) => response.send({ by: one.name, data }))
    await one.settled()
  },

  'rpc.make'({ client, rpc, data }) {
    return session(client).client.rpc.make(rpc, data)
  },

  async 'presence.subscribe'({ client }) {
    const one = session(client)
    one.client.presence.subscribe((user, online) => one.inbox('presence').add({ user, online }))
    await one.settled()
  },

  'presence.query'({ client }) {
    return session(client).client.presence.getAll()
  },

  // kind is "event" or "record". What is matched goes to the inbox named like the pattern.
  async listen({ client, kind, pattern }) {
    const one = session(client)
    const inbox = one.inbox(pattern)
    one.client[kind].listen(pattern, (subject, response) => {
      response.onStop((stopped) => inbox.add({ subject: stopped, wanted: false }))
      response.accept()
      inbox.add({ subject, wanted: true })
    })
    await one.settled()
  },
}

function answer(message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

async function obey(line) {
  const { id, op, ...parameters } = JSON.parse(line)
  try {
    answer({ id, value: await operations[op](parameters) })
  } catch (error) {
    answer({ id, error: (error && error.stack) || String(error) })
  }
}

const commands = readline.createInterface({ input: process.stdin })
commands.on('line', obey)
commands.on('close', () => process.exit(0))
answer({ event: 'ready' })
