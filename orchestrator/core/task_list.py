"""The agent's list of tasks, as its tool calls keep it. Pure; all of it is the room's own word."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.core.cli_event import AssistantMessage, CliEvent, ToolUseBlock, UserMessage
from orchestrator.core.quoting import one_line
from orchestrator.model import JsonObject

# What a phone shows without scrolling away from the answer.
_MOST_SHOWN = 12
_MOST_TASKS = 100
_TASK_CHARS = 120
_ID_CHARS = 64
# Claude Code 2.1.330, as the answer to TaskCreate; its own views read it in the same way.
_CREATED = re.compile(r"Task #(\S{1,64}) created successfully")


class TaskState(StrEnum):
    """As the tools name them."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


# A sign for the eye and a word for whoever hears it read out.
_SIGNS = {
    TaskState.PENDING: "☐",
    TaskState.IN_PROGRESS: "▶",
    TaskState.COMPLETED: "☑",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One of them."""

    title: str
    state: TaskState

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.title}"


class TaskList:
    """Invariant: at most _MOST_TASKS, in the order in which the agent named them.

    Two forms are known: `TodoWrite`, which gives the whole list, and `TaskCreate` and `TaskUpdate`,
    which change it. A task that was created has an id once the tool has answered.
    """

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._creating: OrderedDict[str, Task] = OrderedDict()

    def __repr__(self) -> str:
        return f"TaskList({len(self._tasks)})"

    def feed(self, event: CliEvent) -> bool:
        """Take in a line of the CLI's; whether it changed anything. Never raises."""
        before = list(self._tasks.values())
        match event:
            case AssistantMessage(parent_tool_use_id=None):
                for block in event.blocks:
                    if isinstance(block, ToolUseBlock):
                        self._call(block)
            case UserMessage():
                for result in event.results:
                    self._answer(result.tool_use_id[:_ID_CHARS], result.text)
        return list(self._tasks.values()) != before

    def shown(self) -> tuple[str, ...]:
        """A line for each, the finished ones first left out where there are too many."""
        tasks = list(self._tasks.values())
        left_out = 0
        while len(tasks) > _MOST_SHOWN:
            done = next((i for i, t in enumerate(tasks) if t.state is TaskState.COMPLETED), -1)
            tasks.pop(done)
            left_out += 1
        lines = [str(task) for task in tasks]
        return (*lines, f"… and {left_out} more") if left_out else tuple(lines)

    def _call(self, block: ToolUseBlock) -> None:
        match block.name:
            case "TodoWrite":
                self._replace(block.input.get("todos"))
            case "TaskCreate":
                title = _title(block.input.get("subject"))
                if title and len(self._creating) < _MOST_TASKS:
                    task = Task(title=title, state=TaskState.PENDING)
                    self._creating[block.tool_use_id[:_ID_CHARS]] = task
            case "TaskUpdate":
                self._update(block.input)

    def _replace(self, todos: object) -> None:
        if not isinstance(todos, list):
            return
        self._tasks.clear()
        for number, todo in enumerate(todos[:_MOST_TASKS]):
            title = _title(todo.get("content")) if isinstance(todo, dict) else ""
            if title:
                self._tasks[f"todo {number}"] = Task(title=title, state=_state(todo.get("status")))

    def _answer(self, tool_use_id: str, text: str) -> None:
        task = self._creating.pop(tool_use_id, None)
        found = _CREATED.match(text) if task is not None else None
        if task is not None and found is not None and len(self._tasks) < _MOST_TASKS:
            self._tasks[found[1]] = task

    def _update(self, given: JsonObject) -> None:
        task_id = given.get("taskId")
        task = self._tasks.get(task_id) if isinstance(task_id, str) else None
        if task is None or not isinstance(task_id, str):
            return
        if given.get("status") == "deleted":
            del self._tasks[task_id]
            return
        title = _title(given.get("subject")) or task.title
        state = _state(given["status"]) if "status" in given else task.state
        self._tasks[task_id] = replace(task, title=title, state=state)


def _title(value: object) -> str:
    return one_line(value, max_chars=_TASK_CHARS) if isinstance(value, str) else ""


def _state(value: object) -> TaskState:
    try:
        return TaskState(value)  # type: ignore[arg-type]  # anything may stand there
    except ValueError:
        return TaskState.PENDING
