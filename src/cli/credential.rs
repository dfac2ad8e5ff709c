//! The options that name a credential, and the credential that they name.

use std::{io::Read, mem};

use clap::{ArgGroup, Args};
use prost_types::Timestamp;

use super::{error::Error, source::Source, value};
use crate::pb::admin::v1::{
    ClientSecretCredential, Credential, PemCertificateCredential, Pkcs12CertificateCredential,
    credential::Kind,
};

/// Exactly one credential. `-` stands for standard input.
// What goes with one kind conflicts with the others: clap ignores `requires` towards an argument
// that the rest of the line already rules out.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("credential")
    .args(["secret_file", "pem_file", "pfx_file"])
    .required(true))]
pub(super) struct CredentialArguments {
    /// File with a client secret's value (not its Secret ID), `-` for standard input.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<Source>,
    /// When the portal says that the secret expires: RFC 3339, or a day.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["pem_file", "pfx_file"])]
    #[arg(value_parser = value::parse_time)]
    secret_expires: Option<Timestamp>,
    /// PEM file with a certificate and its RSA key, `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pem_file: Option<Source>,
    /// PKCS#12 (PFX) file with a certificate and its RSA key, `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pfx_file: Option<Source>,
    /// File with the password of the PFX file, `-` for standard input. Left out: no password.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_file", "pem_file"])]
    pfx_password_file: Option<Source>,
}

impl CredentialArguments {
    /// Reads the files. The buffers move into the message without a copy; from there on they are
    /// the gRPC library's, which does not wipe what it sends.
    pub(super) fn read(&self, input: &mut dyn Read) -> Result<Credential, Error> {
        let kind = if let Some(source) = &self.secret_file {
            Kind::ClientSecret(ClientSecretCredential {
                value: mem::take(&mut *source.read_text("--secret-file", input)?),
                expire_time: self.secret_expires,
            })
        } else if let Some(source) = &self.pem_file {
            Kind::PemCertificate(PemCertificateCredential {
                pem: mem::take(&mut *source.read_text("--pem-file", input)?),
            })
        } else if let Some(source) = &self.pfx_file {
            if (Some(source), source) == (self.pfx_password_file.as_ref(), &Source::Input) {
                return Err(Error::usage(
                    "only one of `--pfx-file` and `--pfx-password-file` can be standard input",
                ));
            }
            let password = match &self.pfx_password_file {
                Some(source) => mem::take(&mut *source.read_text("--pfx-password-file", input)?),
                None => String::new(),
            };
            Kind::Pkcs12Certificate(Pkcs12CertificateCredential {
                pfx: mem::take(&mut *source.read("--pfx-file", input)?),
                password,
            })
        } else {
            return Err(Error::usage(
                "give one of `--secret-file`, `--pem-file` and `--pfx-file`",
            ));
        };
        Ok(Credential { kind: Some(kind) })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        credential: CredentialArguments,
    }

    fn parsed(arguments: &[&str]) -> Result<CredentialArguments, clap::Error> {
        let line = ["program"].iter().chain(arguments);
        Line::try_parse_from(line).map(|line| line.credential)
    }

    /// The credential that the arguments name, with this standard input.
    fn kind(arguments: &[&str], input: &str) -> Result<Kind, Error> {
        let arguments = parsed(arguments).expect("a valid command line");
        let credential = arguments.read(&mut input.as_bytes())?;
        Ok(credential.kind.expect("a kind"))
    }

    #[test]
    fn exactly_one_credential_is_given() {
        assert!(parsed(&[]).is_err());
        assert!(parsed(&["--secret-file", "a", "--pem-file", "b"]).is_err());
        assert!(parsed(&["--pem-file", "b", "--secret-expires", "2027-05-01"]).is_err());
        assert!(parsed(&["--secret-file", "a", "--pfx-password-file", "b"]).is_err());
        assert!(parsed(&["--secret-file", "a", "--secret-expires", "soon"]).is_err());
    }

    #[test]
    fn a_secret_comes_with_its_end() {
        let arguments = ["--secret-file", "-", "--secret-expires", "2027-05-01"];
        let wanted = Kind::ClientSecret(ClientSecretCredential {
            value: "canary".into(),
            expire_time: Some("2027-05-01T00:00:00Z".parse().expect("a time")),
        });
        assert_eq!(kind(&arguments, "canary\n").expect("a secret"), wanted);
    }

    #[test]
    fn a_pfx_file_may_have_no_password() {
        let wanted = Kind::Pkcs12Certificate(Pkcs12CertificateCredential {
            pfx: b"pfx\n".to_vec(),
            password: String::new(),
        });
        assert_eq!(kind(&["--pfx-file", "-"], "pfx\n").expect("a file"), wanted);
    }

    #[test]
    fn standard_input_is_read_once() {
        let arguments = ["--pfx-file", "-", "--pfx-password-file", "-"];
        let error = kind(&arguments, "pfx").expect_err("twice");
        assert_eq!(error.exit_code(), 2);
    }
}
