"""Requests to register organizations and to change them."""

import uuid

from kodo.broker.admin.v1 import organization_service_pb2 as admin
from kodo.broker.v1 import token_service_pb2 as broker

import pki
from authority import SHAREPOINT_HOST


def client_secret(value: str) -> admin.Credential:
    return admin.Credential(client_secret=admin.ClientSecretCredential(value=value))


def pem_certificate(certificate: pki.ApplicationCertificate) -> admin.Credential:
    return admin.Credential(pem_certificate=admin.PemCertificateCredential(pem=certificate.pem))


def register(
    tenant: str, client_id: str, credential, **fields
) -> admin.RegisterOrganizationRequest:
    """A whole registration. The SharePoint host is given: no Graph is there to ask for it."""
    organization_id = f"org-{uuid.uuid4()}"
    request = admin.RegisterOrganizationRequest(
        request_id=str(uuid.uuid4()),
        organization_id=organization_id,
        display_name=f"Contoso {organization_id}",
        tenant=tenant,
        cloud=admin.CLOUD_GLOBAL,
        client_id=client_id,
        credential=credential,
        sharepoint_root_host=SHAREPOINT_HOST,
    )
    request.MergeFrom(admin.RegisterOrganizationRequest(**fields))
    return request


def rotate(organization, credential, **fields) -> admin.RotateCredentialRequest:
    request = admin.RotateCredentialRequest(
        request_id=str(uuid.uuid4()),
        organization_id=organization.organization_id,
        revision=organization.revision,
        credential=credential,
    )
    request.MergeFrom(admin.RotateCredentialRequest(**fields))
    return request


def revoke(organization, **fields) -> admin.RevokeOrganizationRequest:
    request = admin.RevokeOrganizationRequest(
        request_id=str(uuid.uuid4()),
        organization_id=organization.organization_id,
        revision=organization.revision,
    )
    request.MergeFrom(admin.RevokeOrganizationRequest(**fields))
    return request


def get_token(organization_id: str, resource: str, **fields) -> broker.GetTokenRequest:
    """`resource` as in the policy: graph, exchange, sharepoint."""
    value = broker.Resource.Value(f"RESOURCE_{resource.upper()}")
    return broker.GetTokenRequest(organization_id=organization_id, resource=value, **fields)
