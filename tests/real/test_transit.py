"""The KEK in a real OpenBao server: what its operator does there, and what the broker makes of it."""

import base64
import secrets
import time

import grpc
import pytest
import registration
from cluster import Cluster
from kodo.broker.admin.v1 import organization_service_pb2 as contract

from openbao import KEY, POLICY, OpenBao

WAIT_SECONDS = 20


@pytest.fixture
def openbao(ca, tmp_path):
    """One for each test: they seal, stop and rotate."""
    server = OpenBao(tmp_path, ca, ca.server(f"openbao-{tmp_path.name}"))
    server.start()
    server.enable_transit()
    yield server
    server.stop()


@pytest.fixture
def put_token(tmp_path, canaries):
    """Puts a token into the file that the broker reads it from."""
    file = tmp_path / "token"

    def put(token):
        canaries.token(token)
        new = tmp_path / "token.new"
        new.touch(mode=0o600)
        new.write_text(f"{token}\n")
        new.rename(file)
        return file

    return put


def section(openbao, login, key=KEY):
    return f"""
[kek.transit]
address = "{openbao.url}"
key = "{key}"
ca_file = "{openbao.ca_file}"
request_timeout_seconds = 2
refresh_seconds = 1
{login}
"""


@pytest.fixture
def transit_broker(openbao, put_token, start_broker, authority):
    file = put_token(openbao.token())
    return start_broker(authority.url, section(openbao, f'token_file = "{file}"'))


@pytest.fixture
def register(admin, authority, new_application, canaries):
    """Registers an organization, which wraps a key."""

    def register(broker):
        application = new_application()
        authority.accept_secret(application.client_id, application.secret)
        credential = registration.client_secret(application.secret)
        request = registration.register(authority.tenant, application.client_id, credential)
        canaries.identifier(request.organization_id)
        broker.organizations(admin).RegisterOrganization(request, timeout=30)
        return request.organization_id

    return register


@pytest.fixture
def new_organization(transit_broker, register):
    return lambda: register(transit_broker)


def restart(broker):
    broker.stop()
    broker.start()


def get(broker, admin, organization_id):
    """Reads the organization's record, which unwraps its key; nothing keeps that in memory."""
    request = contract.GetOrganizationRequest(organization_id=organization_id)
    return broker.organizations(admin).GetOrganization(request, timeout=30)


def refusal(broker, admin, organization_id):
    with pytest.raises(grpc.RpcError) as refused:
        get(broker, admin, organization_id)
    return refused.value


def eventually(check):
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := check()):
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.1)
    return found


def opens(broker, admin, organization_id):
    try:
        return get(broker, admin, organization_id)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        return None


def logged(broker, level, words):
    """The lines of the log with these words."""
    lines = [line for line in broker.output().splitlines() if f'"level":"{level}"' in line]
    return [line for line in lines if words in line]


def test_what_was_registered_is_there_after_a_restart(
    transit_broker, new_organization, worker, admin
):
    organization_id = new_organization()
    restart(transit_broker)
    assert get(transit_broker, admin, organization_id).organization.revision == 1
    request = registration.get_token(organization_id, "graph")
    assert transit_broker.tokens(worker).GetToken(request, timeout=30).access_token
    # No library logs a body of what is asked of OpenBao. (Secrets as such: test_secrecy.)
    assert '"level":"TRACE"' in transit_broker.output()
    assert "plaintext" not in transit_broker.output()


def test_a_rotated_key_opens_the_old_and_wraps_the_new(
    openbao, transit_broker, new_organization, admin
):
    old = new_organization()
    openbao.ask("POST", f"transit/keys/{KEY}/rotate")
    openbao.ask("POST", f"transit/keys/{KEY}/config", min_encryption_version=2)
    eventually(lambda: logged(transit_broker, "INFO", ":v2"))
    new = new_organization()
    assert get(transit_broker, admin, old) and get(transit_broker, admin, new)
    restart(transit_broker)
    # The root and the first organization lie under the first version, which then is not to be had.
    openbao.ask("POST", f"transit/keys/{KEY}/config", min_decryption_version=2)
    eventually(lambda: not opens(transit_broker, admin, old))
    assert get(transit_broker, admin, new).organization.revision == 1
    eventually(lambda: logged(transit_broker, "ERROR", ":v1, which is none of those"))
    openbao.ask("POST", f"transit/keys/{KEY}/config", min_decryption_version=1)
    eventually(lambda: opens(transit_broker, admin, old))


def test_a_token_that_has_ended_is_told_and_another_one_taken(
    openbao, transit_broker, new_organization, put_token, admin, canaries
):
    organization_id = new_organization()
    revoked = (openbao.directory / "token").read_text().strip()
    openbao.ask("POST", "auth/token/revoke", token=revoked)
    refused = refusal(transit_broker, admin, organization_id)
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert logged(transit_broker, "ERROR", "permission denied: the token in")
    put_token(openbao.token())
    eventually(lambda: opens(transit_broker, admin, organization_id))


def test_a_token_is_renewed_before_it_ends(openbao, transit_broker, put_token):
    token = openbao.token(ttl="4s", explicit_max_ttl="1h")
    put_token(token)
    eventually(lambda: logged(transit_broker, "INFO", "another token is in the file"))
    began = time.monotonic()
    while time.monotonic() < began + 9:
        alive = openbao.ask("POST", "auth/token/lookup", token=token)["data"]
        assert alive["ttl"] > 0
        time.sleep(0.5)


# What happens at the server, what the log says then, and how it ends.
OUTAGES = {
    "sealed": (OpenBao.seal, "it is sealed", OpenBao.unseal),
    "stopped": (OpenBao.stop, "no connection", OpenBao.start),
    "soft-deleted": (
        lambda server: server.ask("DELETE", f"transit/keys/{KEY}/soft-delete"),
        "the key is soft-deleted; restore it",
        lambda server: server.ask("POST", f"transit/keys/{KEY}/soft-delete-restore"),
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_told_and_ends_by_itself(
    openbao, transit_broker, new_organization, worker, admin, outage
):
    begin, words, end = OUTAGES[outage]
    organization_id = new_organization()
    request = registration.get_token(organization_id, "graph")
    assert transit_broker.tokens(worker).GetToken(request, timeout=30)
    begin(openbao)
    refused = refusal(transit_broker, admin, organization_id)
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert logged(transit_broker, "ERROR", words)
    if outage != "soft-deleted":
        # Such a key's versions are still told of.
        eventually(lambda: logged(transit_broker, "ERROR", "cannot keep up with the KEK"))
    # What is in memory needs no KEK.
    assert transit_broker.tokens(worker).GetToken(request, timeout=30)
    end(openbao)
    eventually(lambda: opens(transit_broker, admin, organization_id))
    if outage != "soft-deleted":
        eventually(lambda: logged(transit_broker, "INFO", "can be used again"))


def sealed(broker):
    """What a broker says that starts, and cannot open its store. It runs on."""
    before = len(logged(broker, "ERROR", "SEALED"))
    broker.start(services=["liveness"])
    eventually(lambda: len(logged(broker, "ERROR", "SEALED")) > before)
    assert not broker.serves("readiness")
    return logged(broker, "ERROR", "SEALED")[before]


@pytest.mark.parametrize("how", ["sealed", "stopped"])
def test_a_broker_that_starts_during_an_outage_opens_when_it_ends(
    openbao, transit_broker, new_organization, worker, admin, how
):
    organization_id = new_organization()
    transit_broker.stop()
    openbao.seal() if how == "sealed" else openbao.stop()
    assert "cannot be used for now" in sealed(transit_broker)
    request = registration.get_token(organization_id, "graph")
    with pytest.raises(grpc.RpcError) as refused:
        transit_broker.tokens(worker).GetToken(request, timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "the broker is sealed" in refused.value.details()
    openbao.unseal() if how == "sealed" else openbao.start()
    eventually(lambda: transit_broker.serves("readiness"))
    assert transit_broker.tokens(worker).GetToken(request, timeout=30).access_token
    assert len(logged(transit_broker, "INFO", "UNSEALED")) == 1


def test_another_key_than_the_stores_is_refused_by_name(
    openbao, transit_broker, new_organization, admin
):
    organization_id = new_organization()
    transit_broker.stop()
    openbao.ask("POST", f"transit/keys/{KEY}/config", deletion_allowed=True)
    openbao.ask("DELETE", f"transit/keys/{KEY}")
    assert "there is no such key" in sealed(transit_broker)
    transit_broker.stop()
    # What tells them apart is the second when they were made.
    time.sleep(1.1)
    openbao.make_key()
    said = sealed(transit_broker)
    assert "sealed under the KEK transit-" in said and "none of those" in said


def test_a_key_that_cannot_bind_is_refused(openbao, put_token, transit_broker):
    transit_broker.stop()
    openbao.ask("POST", f"transit/keys/{KEY}/config", deletion_allowed=True)
    openbao.ask("DELETE", f"transit/keys/{KEY}")
    openbao.make_key(type="rsa-2048")
    assert "aes256-gcm96" in sealed(transit_broker)


def test_a_derived_key_serves_as_well(openbao, put_token, start_broker, authority):
    openbao.make_key("derived", derived=True)
    rules = openbao.ask("GET", f"sys/policies/acl/{POLICY}")["data"]["policy"]
    openbao.ask("PUT", f"sys/policies/acl/{POLICY}", policy=rules + rules.replace(KEY, "derived"))
    file = put_token(openbao.token())
    login = f'token_file = "{file}"'
    restart(start_broker(authority.url, section(openbao, login, key="derived")))


def test_a_store_moves_from_a_file_to_openbao(
    openbao, put_token, start_broker, register, admin, authority, tmp_path
):
    key = tmp_path / "kek"
    key.touch(mode=0o600)
    key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
    file = f'file = "{key}"'
    transit = section(openbao, f'token_file = "{put_token(openbao.token())}"')
    broker = start_broker(authority.url, file)
    old = register(broker)
    config = broker.directory / "broker.toml"
    in_file = config.read_text()
    both = in_file.replace(file, f'{file}\nwrap_with = "transit"\n{transit}')
    broker.stop()
    config.write_text(both)
    broker.start()
    new = register(broker)
    broker.stop()
    broker.start()
    assert get(broker, admin, old) and get(broker, admin, new)
    # Nothing was re-wrapped: the root is under the file's key still.
    broker.stop()
    config.write_text(in_file.replace(f"[kek]\n{file}", transit))
    assert "sealed under the KEK file-" in sealed(broker)
    broker.stop()
    config.write_text(in_file)
    broker.start()
    assert get(broker, admin, old)
    refused = refusal(broker, admin, new)
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert logged(broker, "ERROR", "sealed under the KEK transit-")


@pytest.fixture
def cluster(ca, tmp_path):
    cluster = Cluster(ca.server(f"cluster-{tmp_path.name}"))
    yield cluster
    cluster.stop()


def test_a_service_account_logs_in_and_stays_so(
    openbao, cluster, start_broker, authority, admin, tmp_path, canaries
):
    openbao.enable_kubernetes(cluster)
    jwt_file = tmp_path / "jwt"
    login = f'[kek.transit.kubernetes]\nrole = "kodo-broker"\njwt_file = "{jwt_file}"\n'
    jwt_file.write_text(cluster.service_account_token("kodo-broker"))
    canaries.token(jwt_file.read_text())
    broker = start_broker(authority.url, section(openbao, login))
    assert "kodo-broker" in cluster.reviewed
    # Renewed all along, which is reviewed, too; and a new login before the longest life of a token
    # is over.
    cluster.reviewed.clear()
    began = time.monotonic()
    while time.monotonic() < began + 14:
        listed = broker.organizations(admin).ListOrganizations(
            contract.ListOrganizationsRequest(), timeout=30
        )
        assert not listed.organizations
        time.sleep(0.5)
    assert 3 <= len(cluster.reviewed) <= 14
    assert not logged(broker, "ERROR", "KEK")
    broker.stop()
    jwt_file.write_text(cluster.service_account_token("another"))
    canaries.token(jwt_file.read_text())
    assert "the login at auth/kubernetes as kodo-broker is refused" in sealed(broker)
