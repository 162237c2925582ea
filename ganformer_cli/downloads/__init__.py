"""Files from the internet, Google Drive and the Hugging Face Hub: resumed, checked, and whole or not there."""

from ganformer_cli.downloads.checksums import (
    ChecksumError,
    Progress,
    check_file,
    checked_note,
    remember_checksum,
    split_checksum,
)
from ganformer_cli.downloads.drive import DRIVE, drive_address, fetch_drive
from ganformer_cli.downloads.hub import HUB_PREFIX, HubAddress, fetch_hub, parse_hub_address
from ganformer_cli.downloads.transfer import fetch

__all__ = [
    "DRIVE",
    "HUB_PREFIX",
    "ChecksumError",
    "HubAddress",
    "Progress",
    "check_file",
    "checked_note",
    "drive_address",
    "fetch",
    "fetch_drive",
    "fetch_hub",
    "parse_hub_address",
    "remember_checksum",
    "split_checksum",
]
