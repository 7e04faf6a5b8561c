"""Reads and writes profiles; each write is announced, and none overlaps a change of the state."""

import asyncio
import logging
from pathlib import Path

from magid.catalog.profile import Profile
from magid.catalog.profile_store import ProfileDir
from magid.control.state import Change, StateStore
from magid.errors import ProfileActive
from magid.log.events import Event, about

log = logging.getLogger(__name__)


class Profiles:
    """All profiles. The reading methods block; the writing ones write in a thread."""

    def __init__(self, folder: ProfileDir, store: StateStore) -> None:
        self._folder = folder
        self._store = store
        self.list, self.get, self.revision = folder.list, folder.get, folder.revision
        self.text = folder.text

    async def create(self, profile: Profile, text: str | None = None) -> tuple[str, Path]:
        """Creates a profile, with this text as its file; returns its slug and its file."""
        slug, path = await self._store.exclusive(
            lambda: asyncio.to_thread(self._folder.create, profile, text)
        )
        self._announce(slug, "created")
        return slug, path

    async def replace(
        self, name: str, profile: Profile, expected: str | None, text: str | None = None
    ) -> None:
        """Replaces the profile. Raises StaleRevision if the file's revision is not `expected`."""
        await self._store.exclusive(
            lambda: asyncio.to_thread(self._folder.replace, name, profile, expected, text)
        )
        self._announce(name, "replaced")

    async def delete(self, name: str) -> None:
        """Deletes the profile. Raises ProfileActive, ProfileNotFound, CannotWrite."""

        async def delete() -> None:
            if name == self._store.snapshot.active.name:
                raise ProfileActive(
                    f"cannot delete profile {name!r}: it is the active one; activate another first",
                    profileName=name,
                )
            await asyncio.to_thread(self._folder.delete, name)

        await self._store.exclusive(delete)
        self._announce(name, "deleted")

    def _announce(self, name: str, how: str) -> None:
        log.info("profile %r was %s", name, how, extra=about(Event.PROFILE_WRITTEN, profile=name))
        self._store.notify(Change("profile"))
        self._store.refresh_profile()  # it may be the active one
