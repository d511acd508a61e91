// One deepstream node, configured by one JSON argument: {"port": 6020, "redis": "redis.sock", "mqtt":
// 1883}; redis is the path of a socket, and makes the node part of a cluster; with mqtt it has an MQTT
// endpoint on that port. Prints one JSON line per event:
// "ready" with the port once it accepts sessions, "cluster" with the size whenever it learns of a
// node or loses one, "login" and "logout" with the user.

'use strict'

const { once } = require('events')
const { Deepstream } = require('@deepstream/server')

const options = JSON.parse(process.argv[2])

function report(event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

function configuration() {
  const cluster = options.redis === undefined
    ? {}
    : { clusterNode: { name: 'redis', options: { path: options.redis } } }
  // Named here because the built-in list also opens MQTT on a fixed port.
  const mqtt = options.mqtt === undefined
    ? []
    : [{ type: 'mqtt', options: { host: '127.0.0.1', port: options.mqtt, idleTimeout: 180000 } }]
  return {
    showLogo: false,
    httpServer: {
      type: 'default',
      options: { host: '127.0.0.1', port: options.port, healthCheckPath: '/health-check' },
    },
    connectionEndpoints: [
      { type: 'ws-binary', options: { urlPath: '/deepstream' } },
      { type: 'http', options: { postPath: '/api', getPath: '/api' } },
      ...mqtt,
    ],
    logger: { type: 'default', options: { colors: false, logLevel: 'WARN' } },
    permission: { type: 'none', options: {} },
    // A node that joins is told of the others by their next status only: 5 s by default.
    clusterRegistry: { type: 'default', options: { keepAliveInterval: 250 } },
    ...cluster,
  }
}

// Redis confirms subscriptions in order: when this one is confirmed, so are all of the node's own,
// and nothing that another node publishes from now on is missed.
async function subscribed(services) {
  if (options.redis !== undefined) {
    await services.clusterNode.subscribeConnection.client.subscribe('tidegate-e2e')
  }
}

function followCluster(registry) {
  const tell = () => report({ event: 'cluster', size: registry.getAll().length })
  registry.onServerAdded(tell)
  registry.onServerRemoved(tell)
  tell()
}

// The way a plugin hears of clients; probes and strangers never log in.
function followClients(deepstream) {
  deepstream.connectionListeners.add({
    onClientConnected: ({ userId }) => report({ event: 'login', user: userId }),
    onClientDisconnected: ({ userId }) => report({ event: 'logout', user: userId }),
  })
}

async function main() {
  const deepstream = new Deepstream(configuration())
  followClients(deepstream)
  // What the deepstream command does on these two.
  deepstream.on('FATAL_EXCEPTION', () => process.exit(1))
  process.on('SIGINT', () => {
    deepstream.on('stopped', () => process.exit(0))
    deepstream.stop()
  })
  deepstream.start()
  await once(deepstream, 'started')
  await subscribed(deepstream.getServices())
  report({ event: 'ready', port: options.port })
  followCluster(deepstream.getServices().clusterRegistry)
}

main()
