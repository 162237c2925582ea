"""Files from the internet: resumed where they broke off, checked, and whole or not there; Drive's pages understood."""

from ganformer_cli.downloads.checksums import (
    ChecksumError,
    Progress,
    check_file,
    checked_note,
    digest_file,
    remember_checksum,
    split_checksum,
)
from ganformer_cli.downloads.drive import DRIVE, drive_address, fetch_drive
from ganformer_cli.downloads.transfer import fetch

__all__ = [
    "DRIVE",
    "ChecksumError",
    "Progress",
    "check_file",
    "checked_note",
    "digest_file",
    "drive_address",
    "fetch",
    "fetch_drive",
    "remember_checksum",
    "split_checksum",
]
