"""Certificate, key and CAs from the SPIFFE Workload API, as they come, change, end, and stay away."""

import datetime
import json
import ssl
import subprocess
import time

import pytest
from grpc import RpcError, StatusCode

import pki
from broker import BINARY, TRUST_DOMAIN, WORKER, Broker
from refusal import refusal
from registration import get_token
from workload_api import WorkloadApi

BROKER = f"spiffe://{TRUST_DOMAIN}/ns/kodo/sa/broker"
PARTNER = "partner.test"
PARTNER_WORKER = f"spiffe://{PARTNER}/worker"
# Nothing of that name: an answer nevertheless, to whoever is let in.
ANY = get_token("nobody", "graph")
IN_FORCE_SECONDS = 2
# Its pauses between attempts grow to ten seconds.
RECONNECTED_SECONDS = 15


@pytest.fixture
def agent(tmp_path):
    agent = WorkloadApi(tmp_path / "agent.sock")
    yield agent
    agent.stop()


@pytest.fixture
def own_ca(tmp_path):
    """Another CA than that of the other tests, which may go."""
    (tmp_path / "own").mkdir()
    return pki.Authority(tmp_path / "own")


def section(agent, seconds=30) -> str:
    return (
        f'source = "workload_api"\nsocket = "{agent.endpoint}"\nstart_timeout_seconds = {seconds}'
    )


@pytest.fixture
def start(start_broker, authority, agent, ca):
    """Starts a broker on the agent. Clients know it by the CA of the tests."""

    def start(identity=""):
        return start_broker(
            authority.url,
            tls=section(agent),
            identity_section=f'trust_domain = "{TRUST_DOMAIN}"\n{identity}',
        )

    return start


def shown(broker) -> str:
    return ssl.get_server_certificate(broker.address, timeout=5)


def until(condition, seconds):
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "it does not come"
        time.sleep(0.05)
    return time.monotonic() - began


def let_in(broker, caller) -> bool:
    """Over a connection of its own."""
    channel_broken = refusal_code(broker, caller)
    return channel_broken is StatusCode.NOT_FOUND


def refusal_code(broker, caller):
    with pytest.raises(RpcError) as caught:
        broker.tokens(caller).GetToken(ANY, timeout=10)
    return caught.value.code()


def test_svid_and_cas_are_taken_as_they_come(start, agent, ca, own_ca, worker):
    first = ca.svid("svid-1", BROKER)
    agent.give(BROKER, first, [ca])
    agent.start()
    broker = start()
    assert shown(broker) == first.certificate.decode()
    open_connection = broker.tokens(worker)
    assert refusal(open_connection.GetToken, ANY).code is StatusCode.NOT_FOUND

    second = ca.svid("svid-2", BROKER)
    agent.give(BROKER, second, [ca])
    took = until(lambda: shown(broker) == second.certificate.decode(), IN_FORCE_SECONDS)
    assert took < IN_FORCE_SECONDS
    assert refusal(open_connection.GetToken, ANY).code is StatusCode.NOT_FOUND

    # Another CA in the place of the first one: whoever has a certificate of that is out.
    newcomer = own_ca.client("newcomer", WORKER)
    assert not let_in(broker, newcomer)
    agent.give(BROKER, second, [own_ca])
    until(lambda: let_in(broker, newcomer), IN_FORCE_SECONDS + 1)
    assert not let_in(broker, worker)


def test_federated_ca_vouches_for_its_own_trust_domain_only(start, agent, ca, own_ca, worker):
    agent.give(BROKER, ca.svid("svid-3", BROKER), [ca], {PARTNER: [own_ca]})
    agent.start()
    broker = start(f'[[identity.federated]]\ntrust_domain = "{PARTNER}"')
    assert let_in(broker, worker)
    assert let_in(broker, own_ca.client("partner", PARTNER_WORKER))
    assert not let_in(broker, own_ca.client("minted", WORKER))
    assert not let_in(broker, ca.client("minted", PARTNER_WORKER))


def test_without_the_agent_the_last_svid_serves_until_it_has_expired(start, agent, ca, worker):
    life = datetime.timedelta(seconds=15)
    agent.give(BROKER, ca.svid("svid-4", BROKER, life), [ca])
    agent.start()
    broker = start()
    agent.stop()
    assert let_in(broker, worker)
    assert broker.serves("readiness")

    until(lambda: not broker.serves("readiness"), life.total_seconds() + 5)
    assert not let_in(broker, worker)
    lines = [json.loads(line) for line in broker.logs[1].read_text().splitlines()]
    told = [line for line in lines if line.get("message", "").startswith("EXPIRED")]
    assert [line["level"] for line in told] == ["ERROR"]
    assert broker.serves("liveness"), "a restart does not help"

    agent.give(BROKER, ca.svid("svid-5", BROKER), [ca])
    agent.start()
    until(lambda: broker.serves("readiness"), RECONNECTED_SECONDS)
    assert let_in(broker, worker)


def test_start_without_an_agent_ends_in_time(tmp_path, authority, agent, ca):
    broker = Broker(
        tmp_path,
        ca,
        ca.server("never"),
        authority.url,
        tls=section(agent, seconds=1),
        identity_section=f'trust_domain = "{TRUST_DOMAIN}"',
    )
    command = [BINARY, "serve", "--insecure-dev", "--config", broker.directory / "broker.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 78
    assert f"error: the Workload API at {agent.endpoint}: " in ended.stderr
