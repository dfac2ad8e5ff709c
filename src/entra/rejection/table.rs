//! The table of AADSTS numbers.

use super::RejectionKind as Kind;

/// Numbers that mean the same to us.
pub(super) struct Row {
    pub(super) codes: &'static [u32],
    pub(super) kind: Kind,
    pub(super) explanation: &'static str,
    pub(super) remedy: &'static str,
}

/// What is left to say where the operator chose nothing wrong.
const REPORT: &str = "report it as a defect of the broker, with the trace id";

pub(super) const INVALID_CLIENT: Row = Row {
    codes: &[70_002, 50_012],
    kind: Kind::CredentialRejected,
    explanation: "it does not accept the application's credential",
    remedy: "rotate to a secret or certificate that the application has in the Azure portal",
};

pub(super) const CERTIFICATE_EXPIRED: Row = Row {
    codes: &[1_000_502],
    kind: Kind::CredentialExpired,
    explanation: "the certificate is outside its validity period",
    remedy: "upload a new certificate to the application in the Azure portal and rotate to it",
};

pub(super) const UNAUTHORIZED_CLIENT: Row = Row {
    codes: &[700_016, 700_011, 7_000_229],
    kind: Kind::ApplicationNotFound,
    explanation: "the application does not exist in this tenant",
    remedy: "check client id and tenant id; if both are right, have an administrator of the tenant consent to the application",
};

pub(super) const INVALID_RESOURCE: Row = Row {
    codes: &[
        500_011, 500_014, 50_001, 650_052, 650_054, 650_056, 650_057, 65_005,
    ],
    kind: Kind::ResourceUnavailable,
    explanation: "the requested API does not exist in the tenant, or is not enabled there",
    remedy: "check that the tenant has a licence for it, that its service principal is enabled, and that the registered cloud is right",
};

pub(super) const INVALID_TENANT: Row = Row {
    codes: &[90_002, 900_023, 5_000_225],
    kind: Kind::TenantUnavailable,
    explanation: "the tenant does not exist in this cloud, or is blocked for inactivity",
    remedy: "check the tenant id and the registered cloud; a tenant blocked for inactivity can be reactivated within 20 days",
};

pub(super) const CONSENT_REQUIRED: Row = Row {
    codes: &[65_001, 90_094],
    kind: Kind::ConsentRequired,
    explanation: "no administrator of the tenant has consented to the application's permissions",
    remedy: "have an administrator of the tenant press \"Grant admin consent\" in the Azure portal; it may take some minutes to apply",
};

pub(super) const INTERACTION_REQUIRED: Row = Row {
    codes: &[],
    kind: Kind::BlockedByPolicy,
    explanation: "it wants a person to sign in, as where a policy of the tenant forbids the application",
    remedy: "have an administrator of the tenant look for the refusal in the sign-in log of service principals",
};

pub(super) const TEMPORARY: Row = Row {
    codes: &[
        90_033, 90_006, 90_012, 90_024, 50_033, 50_087, 90_090, 90_091, 90_061,
    ],
    kind: Kind::Transient,
    explanation: "it is in trouble itself for the moment",
    remedy: "try again later; if it lasts, look at the Microsoft 365 service status",
};

pub(super) const UNKNOWN: Row = Row {
    codes: &[90_036, 90_092, 50_000],
    kind: Kind::Other,
    explanation: "it gives a reason that the broker does not know",
    remedy: "look up the AADSTS number in Microsoft's documentation; Microsoft's support needs the trace id and the time",
};

/// Numbers that are also given while a change spreads among Entra's servers. "The secret has expired"
/// is one: a server that does not know the new secret yet finds only those that have ended.
pub(super) const PROPAGATING: &[u32] = &[
    7_000_215, 7_000_222, 700_027, 7_000_274, 70_021, 700_213, 700_016, 65_001,
];

/// All rows.
pub(super) const TABLE: &[Row] = &[
    INVALID_CLIENT,
    CERTIFICATE_EXPIRED,
    UNAUTHORIZED_CLIENT,
    INVALID_RESOURCE,
    INVALID_TENANT,
    CONSENT_REQUIRED,
    TEMPORARY,
    UNKNOWN,
    Row {
        codes: &[7_000_215],
        kind: Kind::CredentialRejected,
        explanation: "the client secret is wrong",
        remedy: "rotate to the secret's value (not its id) from the Azure portal; a new secret may be refused for about a minute",
    },
    Row {
        codes: &[7_000_222],
        kind: Kind::CredentialExpired,
        explanation: "the client secret has expired",
        remedy: "create a new client secret, or better a certificate, in the Azure portal and rotate to it",
    },
    Row {
        codes: &[700_027, 7_000_274, 700_030, 7_005_003],
        kind: Kind::CredentialRejected,
        explanation: "the certificate is not one of the application, or its key is another",
        remedy: "upload the certificate to the application in the Azure portal, or rotate to the one that is there; compare thumbprints",
    },
    Row {
        codes: &[7_000_214, 7_000_277, 7_005_004, 7_005_005, 7_005_006],
        kind: Kind::CredentialRevoked,
        explanation: "the certificate was revoked",
        remedy: "upload a new certificate to the application in the Azure portal and rotate to it",
    },
    Row {
        codes: &[700_025],
        kind: Kind::ApplicationDisabled,
        explanation: "the application is a public client, which cannot have credentials",
        remedy: "set \"Allow public client flows\" to No in the Azure portal, or register a new application",
    },
    Row {
        codes: &[7_000_112, 70_001, 1_000_031],
        kind: Kind::ApplicationDisabled,
        explanation: "the application is disabled in this tenant",
        remedy: "have an administrator of the tenant enable sign-in for the enterprise application",
    },
    Row {
        codes: &[90_038, 900_382, 900_432, 50_049],
        kind: Kind::WrongCloud,
        explanation: "the tenant is in another Microsoft cloud",
        remedy: "register the organization with the cloud that its tenant is in",
    },
    Row {
        codes: &[501_051],
        kind: Kind::ConsentRequired,
        explanation: "the API demands that the application is assigned to one of its roles, and it is not",
        remedy: "have an administrator of the tenant assign an application role of the API to the application",
    },
    Row {
        codes: &[53_003, 530_032, 50_131],
        kind: Kind::BlockedByPolicy,
        explanation: "a Conditional Access policy of the tenant blocks the application",
        remedy: "have an administrator of the tenant allow the broker's outgoing address for this workload identity",
    },
    Row {
        codes: &[530_035, 500_021, 500_022, 500_212, 500_213],
        kind: Kind::BlockedByPolicy,
        explanation: "security defaults, tenant restrictions or a cross-tenant policy block the application",
        remedy: "have an administrator of the tenant look for the refusal in the sign-in log of service principals",
    },
    Row {
        codes: &[700_024, 50_013, 500_133],
        kind: Kind::ClockSkew,
        explanation: "the client assertion is outside its time",
        remedy: "check the clock of the broker's machine against a time server",
    },
    Row {
        codes: &[50_196, 90_055],
        kind: Kind::Throttled,
        explanation: "there were too many requests of this application",
        remedy: "wait; if it lasts, look for another program that uses the same application without a cache",
    },
    Row {
        codes: &[70_021, 700_213],
        kind: Kind::CredentialRejected,
        explanation: "no federated credential of the application matches",
        remedy: "compare issuer, subject and audience with those in the Azure portal",
    },
    Row {
        codes: &[
            7_000_218, 900_144, 50_027, 5_002_730, 5_002_738, 70_011, 28_002, 700_022, 700_023,
            1_002_012, 901_002, 9_001_023, 90_124, 90_130, 50_194, 90_009, 100_007,
        ],
        kind: Kind::Other,
        explanation: "the broker's request was malformed",
        remedy: REPORT,
    },
    Row {
        codes: &[
            50_034, 50_020, 50_105, 50_074, 50_076, 50_078, 50_079, 70_008, 700_082, 70_043,
            50_173, 50_089, 70_000, 70_016, 70_018, 70_019, 50_134, 90_119, 90_120,
        ],
        kind: Kind::Other,
        explanation: "it answers as if a person had to sign in, which an application never does",
        remedy: REPORT,
    },
];
