"""The schema as numbered migrations; a landed one never changes, new ones are appended.

`PRAGMA user_version` holds the number of the last one applied.
"""

from __future__ import annotations

# 4, a part for each thing that it brings.
_SETTINGS = """
    -- What a room's people set by command, over what the configuration says.
    CREATE TABLE settings (
        room_id TEXT NOT NULL,
        key     TEXT NOT NULL,
        value   TEXT NOT NULL,
        set_by  TEXT NOT NULL,
        set_at  REAL NOT NULL,
        PRIMARY KEY (room_id, key)
    ) STRICT, WITHOUT ROWID;
"""
_LIVE = """
    -- The transaction id of the row whose message this one takes the place of, if it was sent.
    ALTER TABLE outbox ADD COLUMN edits TEXT;
    -- A file's bytes are in their rows: what looks for a room's latest ones must not read them.
    CREATE INDEX outbox_of_room ON outbox (room_id, seq);
    CREATE INDEX inbox_of_room ON inbox (room_id, received_at);
"""
_MARKS = """
    -- The messages that a turn is made of (core.piece), for as long as they can be changed.
    ALTER TABLE turns ADD COLUMN pieces TEXT NOT NULL DEFAULT '{}';
"""
_APPROVALS = """
    -- Who asked for the turn (where that person may decide), what a decision is told with (JSON),
    -- why it was refused or what was answered, the options that were chosen (JSON).
    ALTER TABLE approvals ADD COLUMN asker TEXT;
    ALTER TABLE approvals ADD COLUMN details TEXT;
    ALTER TABLE approvals ADD COLUMN reason TEXT;
    ALTER TABLE approvals ADD COLUMN picks TEXT NOT NULL DEFAULT '[]';
    CREATE INDEX approvals_of_turn ON approvals (turn_id) WHERE state = 'open';
"""
_FILES = """
    -- Where in the workspace the files go that came with a turn, by message.
    ALTER TABLE turns ADD COLUMN files TEXT NOT NULL DEFAULT '{}';
"""
_SNAPSHOTS = """
    -- Copies of a workspace from before each turn; the files are below STATE_DIR/snapshots.
    CREATE TABLE snapshots (
        number     INTEGER PRIMARY KEY AUTOINCREMENT,
        slug       TEXT NOT NULL,
        turn_id    TEXT NOT NULL,
        session    TEXT NOT NULL,
        session_id TEXT,
        manifest   TEXT,
        missing    TEXT,
        after      TEXT,
        taken_at   REAL NOT NULL,
        UNIQUE (slug, turn_id)
    ) STRICT;
    -- What a workspace was before the last turn was undone.
    CREATE TABLE undone (
        slug     TEXT PRIMARY KEY,
        manifest TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Commands that take their time, until they are answered.
    CREATE TABLE errands (
        event_id TEXT PRIMARY KEY,
        room_id  TEXT NOT NULL,
        seq      INTEGER NOT NULL,
        kind     TEXT NOT NULL,
        argument TEXT NOT NULL,
        sender   TEXT NOT NULL,
        progress TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX errands_of_room ON errands (room_id, seq);
"""
_PEOPLE = """
    -- Who has what power in a room: contents of its state events, as far as they were received.
    CREATE TABLE room_power (
        room_id  TEXT PRIMARY KEY,
        creator  TEXT,
        creation TEXT,
        levels   TEXT
    ) STRICT, WITHOUT ROWID;

    -- The names of people who said something; the homeserver tells only of those.
    CREATE TABLE members (
        room_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        name    TEXT,
        joined  INTEGER NOT NULL,
        PRIMARY KEY (room_id, user_id)
    ) STRICT, WITHOUT ROWID;

    -- Rooms whose invitation was accepted: greeted once, however often they invite again.
    CREATE TABLE greetings (
        room_id TEXT PRIMARY KEY,
        is_due  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- The last message of a person in rooms that have other agents: what these asked since counts.
    CREATE TABLE last_people (
        room_id TEXT PRIMARY KEY,
        seq     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- For whom, and by which model, a room's requests were: parts of its total in `spending`.
    CREATE TABLE costs (
        slug      TEXT NOT NULL,
        day       TEXT NOT NULL,
        person    TEXT NOT NULL,
        model     TEXT NOT NULL,
        requests  INTEGER NOT NULL,
        micro_usd INTEGER NOT NULL,
        PRIMARY KEY (day, slug, person, model)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX turns_by_start ON turns (started_at) WHERE started_at IS NOT NULL;

    -- That somebody was warned of a budget on a day.
    CREATE TABLE budget_warnings (
        day     TEXT NOT NULL,
        room_id TEXT NOT NULL,
        what    TEXT NOT NULL,
        PRIMARY KEY (day, room_id, what)
    ) STRICT, WITHOUT ROWID;
"""
_SCHEDULES = """
    -- Turns at a time; one with a pattern is put off when its time has come, another removed.
    CREATE TABLE schedules (
        schedule_id INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id     TEXT NOT NULL,
        text        TEXT NOT NULL,
        due_at      REAL NOT NULL,
        cron        TEXT,
        made_by     TEXT NOT NULL,
        made_at     REAL NOT NULL
    ) STRICT;
    CREATE INDEX schedules_by_time ON schedules (due_at);
"""

MIGRATIONS: tuple[str, ...] = (
    # 1: the first form.
    """
    CREATE TABLE meta (
        key   TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;

    CREATE TABLE rooms (
        room_id        TEXT PRIMARY KEY,
        slug           TEXT NOT NULL UNIQUE,
        idx            INTEGER NOT NULL UNIQUE,
        joined         INTEGER NOT NULL,
        encrypted      INTEGER NOT NULL DEFAULT 0,
        name           TEXT,
        alias          TEXT,
        joined_members INTEGER
    ) STRICT;

    CREATE TABLE inbox (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        event_id    TEXT UNIQUE,
        kind        TEXT NOT NULL,
        room_id     TEXT,
        raw         TEXT NOT NULL,
        state       TEXT NOT NULL,
        reason      TEXT,
        turn_id     TEXT,
        received_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX inbox_open ON inbox (state, seq) WHERE state IN ('new', 'pending_keys');

    CREATE TABLE turns (
        turn_id    TEXT PRIMARY KEY,
        room_id    TEXT NOT NULL,
        session    TEXT NOT NULL,
        position   INTEGER NOT NULL,
        state      TEXT NOT NULL,
        prompt     TEXT NOT NULL,
        sender     TEXT NOT NULL,
        asked      TEXT NOT NULL,
        epoch      TEXT,
        parts      INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        started_at REAL,
        ended_at   REAL,
        outcome    TEXT,
        reason     TEXT
    ) STRICT;
    CREATE INDEX turns_open ON turns (room_id, position) WHERE state <> 'ended';

    CREATE TABLE sessions (
        room_id    TEXT NOT NULL,
        session    TEXT NOT NULL,
        session_id TEXT NOT NULL,
        resumable  INTEGER NOT NULL,
        command    TEXT NOT NULL,
        PRIMARY KEY (room_id, session)
    ) STRICT;

    CREATE TABLE outbox (
        seq              INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id          TEXT NOT NULL,
        txn_id           TEXT NOT NULL UNIQUE,
        event_type       TEXT NOT NULL,
        content          TEXT NOT NULL,
        priority         TEXT NOT NULL,
        state            TEXT NOT NULL,
        attempts         INTEGER NOT NULL DEFAULT 0,
        not_before       REAL NOT NULL,
        created_at       REAL NOT NULL,
        event_id         TEXT,
        ended_at         REAL,
        reason           TEXT
    ) STRICT;
    CREATE INDEX outbox_open ON outbox (room_id, seq) WHERE state = 'queued';

    CREATE TABLE runners (
        room_id    TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        epoch      TEXT,
        acked      INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE told (
        room_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        what    TEXT NOT NULL,
        PRIMARY KEY (room_id, user_id, what)
    ) STRICT;
    """,
    # 2: what survives more than a crash: text taken in and not sent, turns that go on with others,
    # turns that wait, files to be sent, rooms that replace each other.
    """
    ALTER TABLE turns ADD COLUMN draft TEXT NOT NULL DEFAULT '';
    ALTER TABLE turns ADD COLUMN continues TEXT;
    ALTER TABLE turns ADD COLUMN resumes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE turns ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
    ALTER TABLE turns ADD COLUMN cancelled_by TEXT;
    CREATE INDEX turns_continued ON turns (continues) WHERE continues IS NOT NULL;
    ALTER TABLE outbox ADD COLUMN file BLOB;
    ALTER TABLE rooms ADD COLUMN replaced_by TEXT;
    ALTER TABLE rooms ADD COLUMN replaces TEXT;
    ALTER TABLE rooms ADD COLUMN replaced_at REAL;
    ALTER TABLE rooms ADD COLUMN moved_seq INTEGER;

    -- Refused turns whose end no message of the room names yet. Until now each had its own.
    UPDATE turns SET parts = 1 WHERE outcome = 'refused' AND parts = 0;
    CREATE INDEX turns_unmarked ON turns (room_id) WHERE outcome = 'refused' AND parts = 0;
    """,
    # 3: what a room asked to be allowed and who decided, what it may reach, what it used.
    """
    CREATE TABLE approvals (
        approval_id TEXT PRIMARY KEY,
        room_id     TEXT NOT NULL,
        kind        TEXT NOT NULL,
        subject     TEXT NOT NULL,
        wanted_by   TEXT,
        turn_id     TEXT,
        txn_id      TEXT NOT NULL UNIQUE,
        state       TEXT NOT NULL,
        asked_at    REAL NOT NULL,
        expires_at  REAL NOT NULL,
        decision    TEXT,
        decided_by  TEXT,
        decided_at  REAL
    ) STRICT;
    CREATE INDEX approvals_open ON approvals (room_id) WHERE state = 'open';
    CREATE INDEX approvals_of_subject ON approvals (room_id, kind, subject);
    -- A reaction names our message by its event.
    CREATE INDEX outbox_events ON outbox (event_id) WHERE event_id IS NOT NULL;

    -- Approvers who left a room: what they said there, and comes late, does not count any more.
    CREATE TABLE absences (
        room_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        PRIMARY KEY (room_id, user_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE grants (
        grant_id    INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id     TEXT NOT NULL,
        rule        TEXT NOT NULL,
        granted_by  TEXT NOT NULL,
        granted_at  REAL NOT NULL,
        expires_at  REAL,
        seen_at     REAL NOT NULL,
        approval_id TEXT,
        revoked_by  TEXT,
        revoked_at  REAL
    ) STRICT;
    CREATE INDEX grants_of_room ON grants (room_id) WHERE revoked_at IS NULL;

    CREATE TABLE egress_days (
        slug     TEXT NOT NULL,
        day      TEXT NOT NULL,
        bytes    INTEGER NOT NULL,
        PRIMARY KEY (slug, day)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE spending (
        slug       TEXT NOT NULL,
        day        TEXT NOT NULL,
        requests   INTEGER NOT NULL,
        micro_usd  INTEGER NOT NULL,
        PRIMARY KEY (slug, day)
    ) STRICT, WITHOUT ROWID;
    """,
    # 4: the room as an interface.
    "".join(
        (
            _SETTINGS,
            _LIVE,
            _MARKS,
            _APPROVALS,
            _FILES,
            _SNAPSHOTS,
            _PEOPLE,
            _SCHEDULES,
        )
    ),
    # 5: threads, and the conversations that a room has had.
    """
    ALTER TABLE inbox ADD COLUMN thread TEXT;
    -- Of a turn that runs: the session that it was offered to, and the last frame that it needs
    -- no replay of.
    ALTER TABLE turns ADD COLUMN session_id TEXT;
    ALTER TABLE turns ADD COLUMN taken INTEGER NOT NULL DEFAULT 0;
    -- The session that one begins as a copy of, for as long as it has no message of its own.
    ALTER TABLE sessions ADD COLUMN forks TEXT;
    CREATE TABLE past_sessions (
        room_id      TEXT NOT NULL,
        number       INTEGER NOT NULL,
        session_id   TEXT NOT NULL,
        conversation TEXT NOT NULL,
        title        TEXT NOT NULL,
        turns        INTEGER NOT NULL,
        began_at     REAL NOT NULL,
        used_at      REAL NOT NULL,
        PRIMARY KEY (room_id, number),
        UNIQUE (room_id, session_id)
    ) STRICT;
    -- Messages that go into a running turn, until it has ended.
    CREATE TABLE steers (
        event_id TEXT PRIMARY KEY,
        turn_id  TEXT NOT NULL,
        position INTEGER NOT NULL,
        pieces   TEXT NOT NULL,
        state    TEXT NOT NULL
    ) STRICT;
    CREATE INDEX steers_of_turn ON steers (turn_id, position);
    """,
    # 6: schedules of threads, and of people who have left.
    """
    -- The conversation that it was made in; whether the room was told that it is not run for now.
    ALTER TABLE schedules ADD COLUMN session TEXT NOT NULL DEFAULT 'main';
    ALTER TABLE schedules ADD COLUMN is_paused INTEGER NOT NULL DEFAULT 0;
    """,
    # 7: runners that are made for rooms to come.
    """
    -- A place on the host that no room has yet. Ready: its container runs, and nobody works on it.
    CREATE TABLE spares (
        slug       TEXT PRIMARY KEY,
        idx        INTEGER NOT NULL UNIQUE,
        generation INTEGER NOT NULL,
        is_ready   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)
