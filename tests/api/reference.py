"""The examples of the reference and of the how-to, as they are written there (logs shortened)."""

from __future__ import annotations

from typing import Any

# The API reference: what is posted, and what is answered.
BODY = """{
  "image": "task1:latest",
  "command": "ls -lah",
  "envs": {
    "SMTP_SERVER":"my-smtp-server"
  },
  "metadata": {
    "username": "heynemann"
  },
  "retries": 3
}"""
ENQUEUED: dict[str, Any] = {
    "executionId": "36e1b166-7c7a-4a41-a69e-8f78a9ec8128",
    "executionUrl": "http://localhost:10000/tasks/test-wrkng/jobs/"
    "5a023792-1445-44e9-8a8b-cfe5ad05d1c6/executions/36e1b166-7c7a-4a41-a69e-8f78a9ec8128/",
    "jobId": "5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
    "jobUrl": "http://localhost:10000/tasks/test-wrkng/jobs/5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
    "queueJobId": "f1b526fa-acbf-4bb0-bd39-67621dee540a",
    "taskId": "test-wrkng",
    "taskUrl": "http://localhost:10000/tasks/test-wrkng",
}
TASKS: dict[str, Any] = {
    "hasNext": False,
    "hasPrev": False,
    "items": [
        {
            "createdAt": "2019-01-17T15:13:02.754000",
            "jobsCount": 2,
            "lastModifiedAt": "2019-01-17T15:13:02.754000",
            "taskId": "test-wrkng",
            "url": "http://localhost:10000/tasks/test-wrkng",
        }
    ],
    "nextUrl": None,
    "page": 1,
    "pages": 1,
    "perPage": 10,
    "prevUrl": None,
    "total": 1,
}
PUT = {
    "jobId": "5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
    "jobUrl": "http://localhost:10000/tasks/test-wrkng/jobs/5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
    "queueJobId": "f1b526fa-acbf-4bb0-bd39-67621dee540a",
    "taskId": "test-wrkng",
    "taskUrl": "http://localhost:10000/tasks/test-wrkng",
}
TASK: dict[str, Any] = {
    "jobs": [
        {
            "id": "2d3694e2-68eb-418f-82d5-605a801cbd8d",
            "url": "http://localhost:10000/tasks/test-wrkng/jobs/"
            "2d3694e2-68eb-418f-82d5-605a801cbd8d",
        },
    ],
    "taskId": "test-wrkng",
}
JOB: dict[str, Any] = {
    "job": {
        "createdAt": "2019-01-17T15:13:02.614000",
        "executionCount": 1,
        "executions": [
            {
                "command": "ls -lah",
                "createdAt": "2019-01-17T15:13:02.754000",
                "error": "",
                "exitCode": 0,
                "finishedAt": "2019-01-17T15:13:16.298000",
                "image": "task1",
                "log": "total 72K\ndrwxr-xr-x   1 root root 4.0K Jan 17 15:13 .\n",
                "metadata": {
                    "container_id": "cbab7fd2125a30acd91813dd5b91476a",
                    "docker_host": "localhost",
                    "docker_port": 1234,
                },
                "startedAt": "2019-01-17T15:13:10.999000",
                "status": "done",
            }
        ],
        "lastModifiedAt": "2019-01-17T15:13:16.298000",
        "metadata": {
            "enqueued_id": "ba17fb94-9d5b-463b-9e1e-0a572c8f8380",
            "envs": {},
            "notify": {"fails": [], "finishes": [], "succeeds": []},
            "retries": 0,
            "retry_count": 0,
            "timeout": 1800,
            "webhooks": {"fails": [], "finishes": [], "succeeds": []},
        },
        "scheduled": False,
        "taskId": "test-wrkng",
    },
    "task": {"id": "test-wrkng", "url": "http://localhost:10000/tasks/test-wrkng"},
}
STOPPED_JOB = {
    "jobId": "de5fa478-9106-42d6-b142-325941ebf913",
    "jobUrl": "http://localhost:10000/tasks/test-wrkng/jobs/de5fa478-9106-42d6-b142-325941ebf913",
    "taskId": "test-wrkng",
    "taskUrl": "http://localhost:10000/tasks/test-wrkng",
}
EXECUTION: dict[str, Any] = {
    "execution": {
        "command": "sleep 100",
        "createdAt": "2019-01-17T17:13:30.924000",
        "error": "",
        "executionId": "00735b1e-25c3-467d-a106-05701a786957",
        "exitCode": 137,
        "finishedAt": "2019-01-17T17:13:50.136000",
        "image": "task1",
        "log": "",
        "metadata": {
            "container_id": "d432bad154646423369e6fb7a8d46985",
            "docker_host": "localhost",
            "docker_port": 1234,
        },
        "startedAt": "2019-01-17T17:13:34.411000",
        "status": "failed",
    },
    "job": {
        "id": "76903cb5-e7e7-4293-8901-3a7d3344da7c",
        "url": "http://localhost:10000/tasks/test-wrkng/jobs/76903cb5-e7e7-4293-8901-3a7d3344da7c",
    },
    "task": {"id": "test-wrkng", "url": "http://localhost:10000/tasks/test-wrkng"},
}
STOPPED_EXECUTION = {
    "execution": {
        "id": "d4e20d72-9991-405a-9eb9-d72553204d21",
        "url": "http://localhost:10000/tasks/task1/jobs/6f4e8b53-95ce-451f-86fb-cd37b8040c42/"
        "executions/d4e20d72-9991-405a-9eb9-d72553204d21/",
    },
    "job": {
        "id": "6f4e8b53-95ce-451f-86fb-cd37b8040c42",
        "url": "http://localhost:10000/tasks/task1/jobs/6f4e8b53-95ce-451f-86fb-cd37b8040c42/",
    },
    "task": {"id": "task1", "url": "http://localhost:10000/tasks/task1/"},
}
HEALTHCHECK: dict[str, Any] = {"errors": [], "mongo": True, "redis": True}
STATUS: dict[str, Any] = {
    "containers": {"running": []},
    "hosts": [
        {
            "available": True,
            "blacklisted": False,
            "circuit": "closed",
            "error": None,
            "host": "localhost",
            "port": 1234,
        }
    ],
    "jobs": {"count": 11, "scheduled": []},
    "queues": {"error": {"length": 0}, "jobs": {"length": 0}, "monitor": {"length": 0}},
    "tasks": {"count": 1},
}

# The how-to: path, body, and the answer, of each POST by curl.
HOW_TO: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "/tasks/test-task",
        '{"image": "ubuntu:latest", "command": "ls -lah"}',
        {
            "taskId": "test-task",
            "executionId": "96812ec5-4574-46da-9474-f901b51d49ec",
            "executionUrl": "http://fastlane.local:10000/tasks/test-task/jobs/"
            "19603668-7241-4c50-802f-7c39dac831e6/executions/96812ec5-4574-46da-9474-f901b51d49ec/",
            "queueJobId": "db72db9b-cb49-44bd-b2fa-b3afc8e3a041",
            "jobId": "19603668-7241-4c50-802f-7c39dac831e6",
            "jobUrl": "http://fastlane.local:10000/tasks/test-task/jobs/"
            "19603668-7241-4c50-802f-7c39dac831e6/",
            "taskUrl": "http://fastlane.local:10000/tasks/test-task/",
        },
    ),
    *(
        (
            "/tasks/test-scheduled-task",
            body,
            {
                "executionId": None,
                "executionUrl": None,
                "taskId": "test-scheduled-task",
                "jobId": "19603668-7241-4c50-802f-7c39dac831e6",
                "jobUrl": "http://fastlane.local:10000/tasks/test-scheduled-task/jobs/"
                "19603668-7241-4c50-802f-7c39dac831e6/",
                "queueJobId": "db72db9b-cb49-44bd-b2fa-b3afc8e3a041",
                "taskUrl": "http://fastlane.local:10000/tasks/test-scheduled-task/",
            },
        )
        for body in (
            '{"image": "ubuntu:latest", "command": "ls -lah", "startAt": 1645113692}',
            '{"image": "ubuntu:latest", "command": "ls -lah", "startIn": "5m"}',
            '{"image": "ubuntu:latest", "command": "ls -lah", "cron": "* * * * *"}',
        )
    ),
)
DURATIONS = {"10s": 10, "2m30s": 150, "4h30m25s": 16225, "2h30m": 9000, "240h": 864000}
