"""The tests' own Synapse: what other tests rely on."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.matrix_user import MatrixRefusalError, open_matrix_user
from tests.support.synapse import SynapseServer

pytestmark = [pytest.mark.synapse, pytest.mark.docker]


async def test_the_stock_one_has_the_limit_that_homeservers_come_with(
    stock_synapse: SynapseServer,
) -> None:
    account = stock_synapse.register()
    async with open_matrix_user(stock_synapse.base_url, account, patient=False) as user:
        room = await user.create_room()
        sends = (user.send(room, f"message {number}") for number in range(15))
        results = await asyncio.gather(*sends, return_exceptions=True)
    sent = [r for r in results if isinstance(r, str)]
    refused = [r for r in results if isinstance(r, MatrixRefusalError)]
    # 10 at once; the room's own events and the time that passes make it a few more or less.
    assert 7 <= len(sent) <= 12
    assert {r.errcode for r in refused} == {"M_LIMIT_EXCEEDED"}
    assert len(sent) + len(refused) == 15


async def test_one_that_was_killed_is_back_at_the_same_address_with_its_data(
    own_synapse: SynapseServer,
) -> None:
    account = own_synapse.register()
    async with open_matrix_user(own_synapse.base_url, account) as user:
        room = await user.create_room()
        for number in range(15):
            await user.send(room, f"message {number}")
        await asyncio.to_thread(own_synapse.kill)
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as it happens
            await user.send(room, "lost")
        await asyncio.to_thread(own_synapse.start)
        await user.wait_for_text(room, "message 14", sender=user.user_id)
        assert user.texts(room, sender=user.user_id) == [f"message {n}" for n in range(15)]
