// An OAuth 2.0 authority that nobody of this project wrote (npm oidc-provider), mounted at the
// paths that Entra uses, on loopback HTTPS.
//
// It is stricter than Entra: a client has one way to authenticate, and an assertion works once.
//
// Standard input, one JSON object per line; each is answered with one on standard output:
//   {"certificate_file", "key_file", "tenant", "domain", "resources"}   first  -> {"port"}
//   {"client": {"client_id", ...}}    adds or replaces a client                -> {"client_id"}
// The end of standard input ends it.

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import readline from 'node:readline';

import Koa from 'koa';
import mount from 'koa-mount';
import Provider, { errors } from 'oidc-provider';

// Standard output is for answers alone; the provider prints notices of its own.
globalThis.console = new console.Console(process.stderr);

const clients = new Map();

/** In memory, so that an assertion's `jti` is remembered and clients can change while it runs. */
class Adapter {
  constructor(model) {
    this.rows = model === 'Client' ? clients : new Map();
  }

  async find(id) {
    return this.rows.get(id);
  }

  async upsert(id, row) {
    this.rows.set(id, row);
  }
}

function signingKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: 'authority', alg: 'RS256', use: 'sig' };
}

/** Entra takes the resource from the scope: `https://graph.microsoft.com/.default`. */
function resourceOf(ctx) {
  return ctx.oidc.params.scope?.replace(/\/\.default$/, '');
}

function provider(issuer, tenant, resources) {
  return new Provider(issuer, {
    adapter: Adapter,
    jwks: { keys: [signingKey()] },
    scopes: resources.map((resource) => `${resource}/.default`),
    routes: {
      token: '/oauth2/v2.0/token',
      jwks: '/discovery/v2.0/keys',
      authorization: '/oauth2/v2.0/authorize',
    },
    ttl: { ClientCredentials: 3599 },
    extraTokenClaims: (_, token) => ({ tid: tenant, appid: token.clientId }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: resourceOf,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => {
          if (!resources.includes(resource)) throw new errors.InvalidTarget();
          return {
            scope: `${resource}/.default`,
            audience: resource,
            accessTokenFormat: 'jwt',
          };
        },
      },
    },
  });
}

/** A domain of the tenant is another name for it; discovery has a path that cannot be routed. */
function entraPaths(tenant, domain) {
  return (ctx, next) => {
    ctx.path = ctx.path
      .replace(`/${domain}/`, `/${tenant}/`)
      .replace(`/${tenant}/v2.0/.well-known/`, `/${tenant}/.well-known/`);
    return next();
  };
}

function serve(config) {
  const tls = { cert: readFileSync(config.certificate_file), key: readFileSync(config.key_file) };
  const server = https.createServer(tls);
  server.listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    const issuer = `https://127.0.0.1:${port}/${config.tenant}/v2.0`;
    const app = new Koa();
    app.use(entraPaths(config.tenant, config.domain));
    app.use(mount(`/${config.tenant}`, provider(issuer, config.tenant, config.resources)));
    server.on('request', app.callback());
    answer({ port });
  });
}

function answer(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { client, ...config } = JSON.parse(line);
    if (!client) return serve(config);
    clients.set(client.client_id, client);
    return answer({ client_id: client.client_id });
  })
  .on('close', () => process.exit(0));
