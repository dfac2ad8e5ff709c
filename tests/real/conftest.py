"""The parts that every test shares: certificates, an OAuth authority, the broker."""

import sys
import tempfile
import uuid
from functools import cached_property

import pytest

import pki
import stubs

_STUBS = tempfile.TemporaryDirectory(prefix="kodo-stubs-")
stubs.generate(_STUBS.name)
sys.path.insert(0, _STUBS.name)

# These import the generated code.
import registration  # noqa: E402
from authority import Authority  # noqa: E402
from broker import ADMIN, WORKER, Broker  # noqa: E402
from canary import Canaries  # noqa: E402
from recorder import Recorder  # noqa: E402


def pytest_collection_modifyitems(items):
    """What the brokers have written is searched once all other tests have made them write."""
    items.sort(key=lambda item: item.path.stem == "test_secrecy")


@pytest.fixture(scope="session")
def ca(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def worker(ca):
    return ca.client("worker", WORKER)


@pytest.fixture(scope="session")
def admin(ca):
    return ca.client("admin", ADMIN)


@pytest.fixture(scope="session")
def canaries():
    return Canaries()


@pytest.fixture(scope="session")
def start_authority(ca, canaries, tmp_path_factory):
    """Starts authorities, and stops them at the end."""
    running = []

    def start():
        identity = ca.server(f"authority-{len(running)}")
        authority = Authority(identity, tmp_path_factory.mktemp("authority") / "stderr")
        canaries.guid(authority.tenant)
        running.append(authority)
        return authority

    yield start
    for authority in running:
        authority.stop()


@pytest.fixture(scope="session")
def authority(start_authority):
    return start_authority()


@pytest.fixture(scope="session")
def brokers():
    """Every broker of the run. Each must end well."""
    started = []
    yield started
    for broker in started:
        broker.stop()


@pytest.fixture(scope="session")
def start_broker(brokers, ca, tmp_path_factory):
    """Starts a broker that takes the given URL for Entra."""

    def start(authority_url, kek=None, **how):
        identity = ca.server(f"broker-{len(brokers)}")
        directory = tmp_path_factory.mktemp("broker")
        broker = Broker(directory, ca, identity, authority_url, kek, **how)
        brokers.append(broker)
        broker.start()
        return broker

    return start


@pytest.fixture(scope="session")
def broker(start_broker, authority):
    return start_broker(authority.url)


@pytest.fixture(scope="session")
def recorder(ca, canaries):
    recorder = Recorder(ca.server("recorder"))
    canaries.token(recorder.token)
    yield recorder
    recorder.stop()


@pytest.fixture(scope="session")
def recorded_broker(start_broker, recorder):
    return start_broker(recorder.url)


@pytest.fixture
def tokens(broker, worker):
    return broker.tokens(worker)


@pytest.fixture
def organizations(broker, admin):
    return broker.organizations(admin)


class Application:
    """An app registration, and the credentials that its administrator has at hand."""

    def __init__(self, canaries):
        self.client_id = str(uuid.uuid4())
        self.secret = canaries.client_secret()
        self._canaries = canaries
        canaries.guid(self.client_id)

    @cached_property
    def certificate(self) -> pki.ApplicationCertificate:
        """Made when first asked for: an RSA key takes its time."""
        certificate = pki.ApplicationCertificate()
        self._canaries.private_key(certificate.prime)
        return certificate


@pytest.fixture(scope="session")
def new_application(canaries):
    """Makes applications that no authority knows yet."""
    return lambda: Application(canaries)


@pytest.fixture
def application(new_application):
    return new_application()


@pytest.fixture
def with_secret(authority, application, canaries):
    """The registration of an application that the authority lets in with its secret."""
    authority.accept_secret(application.client_id, application.secret)
    request = registration.register(
        authority.tenant, application.client_id, registration.client_secret(application.secret)
    )
    canaries.identifier(request.organization_id)
    return request


@pytest.fixture
def with_certificate(authority, application, canaries):
    """The registration of an application that the authority lets in with its certificate."""
    authority.accept_certificate(application.client_id, application.certificate)
    request = registration.register(
        authority.tenant,
        application.client_id,
        registration.pem_certificate(application.certificate),
    )
    canaries.identifier(request.organization_id)
    return request
