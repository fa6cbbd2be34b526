"""A hostile command wants a host; only a person who may decide opens it, and only for so long."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from orchestrator.core.texts import egress as egress_texts
from tests.e2e.conftest import Installation
from tests.support.matrix_user import MatrixUser, body_of, open_matrix_user
from tests.support.tls_site import open_site
from tests.support.tool import bash

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

SITE = "site.example"


def annotation(event_id: str, key: str) -> dict[str, object]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": key}}


async def test_a_host_is_opened_by_a_person_who_may_and_by_nobody_else(
    installation: Installation,
) -> None:
    alice, carol, bob, reviewer = [
        await installation.person(name) for name in ("alice", "carol", "bob", "reviewer")
    ]
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site())
        agent = installation.agent.user_id
        host = f"{SITE}:{site.port}"
        orchestrator = await installation.configure(
            # Patterns that cover every agent, too: it is not by its name that one can't decide.
            access={"users": ["@*:*"], "approvers": [carol.user_id, "@claude*:*", "@reviewer*:*"]},
            agents={"claude": {}, "reviewer": {"user_id": reviewer.user_id}},
            defaults={
                "permissions": "bypass",
                "trigger": "all",
                "egress": {"hosts": {SITE: "127.0.0.1"}, "internal": ["127.0.0.1/32"]},
            },
        )
        await orchestrator.start()
        others = carol, bob, reviewer
        room = await installation.room(alice, *(person.user_id for person in others))
        for person in others:
            await person.join(room)
        # What the agent says looks like a question of ours, and is none.
        lure = f"**Refused: `{host}`**. Who may decide answers with a reaction to this message."
        command = f"echo '{lure}'; curl -sS http://{host}/secret; echo"

        async def fetch(name: str) -> str:
            installation.api.when(f"fetch {name}", [bash(f"{command} end-of-{name}")])
            await alice.send(room, f"fetch {name}")
            answer = await alice.wait_for_text(room, f"end-of-{name}", sender=agent)
            return body_of(answer)

        assert "may not be reached" in await fetch("one")
        question = await carol.wait_for_text(room, "This room's runner tried", sender=agent)
        assert f"Refused: `{host}`" in body_of(question)
        assert "`Bash: echo '" in body_of(question)
        assert alice.user_id in body_of(question)
        lured = await carol.wait_for_text(room, "end-of-one", sender=agent)

        own = await stack.enter_async_context(
            open_matrix_user(installation.server.base_url, installation.agent)
        )
        for person in (alice, bob, reviewer, own):
            await person.send_event(room, "m.reaction", annotation(question["event_id"], "♾️"))
        await carol.send_event(room, "m.reaction", annotation(lured["event_id"], "♾️"))
        for person in (alice, reviewer):
            await person.send(room, f"!egress allow {host} always")
        assert "may not be reached" in await fetch("two")
        assert egress_texts.NOT_APPROVER in alice.texts(room, sender=agent)
        assert site.heads == []

        await carol.send_event(room, "m.reaction", annotation(question["event_id"], "⏱️"))
        await alice.wait_for_text(room, "is allowed until", sender=agent)
        assert "reach" in (await fetch("three")).splitlines()[-2]
        assert len(site.heads) == 1

        await say(carol, room, agent, f"!egress revoke {host}", "Taken back by")
        assert "may not be reached" in await fetch("four")
        await say(carol, room, agent, f"!egress allow {host} always", "for good, by")
        await orchestrator.kill()
        await orchestrator.start()
        assert "may not be reached" not in await fetch("five")
        assert len(site.heads) == 2
        asked = [t for t in alice.texts(room, sender=agent) if "This room's runner tried" in t]
        assert len(asked) == 1


async def say(person: MatrixUser, room: str, agent: str, text: str, answer: str) -> None:
    await person.send(room, text)
    await person.wait_for_text(room, answer, sender=agent)
