"""Take a step of a course: `python nbgrader_course.py <course> <step> <assignment> <student>...`.

The step ``generate`` makes the assignment. The step ``grade`` grades what lies in ``submitted``,
gives every answer that waits for a person the same points, writes the feedback, and prints all
points as JSON. This is a process of its own: nbgrader's packages warn, and change the logging of
the process that they run in.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config, PyFileConfigLoader

MANUAL_POINTS = 3


def main(course: Path, step: str, assignment: str, students: list[str]) -> None:
    """Take one step: `generate`, or `grade`."""
    config: Config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.CourseDirectory.root = str(course)
    api = NbGraderAPI(config=config)
    if step == "generate":
        done(api.generate_assignment(assignment))
        return
    for student in students:
        done(api.autograde(assignment, student))
    with Gradebook(api.coursedir.db_url) as gradebook:
        points = {
            student: {
                grade.name: None if grade.needs_manual_grade else grade.score
                for grade in gradebook.find_submission_notebook(
                    assignment, assignment, student
                ).grades
            }
            for student in students
        }
        for student, name in open_answers(points):
            grade = gradebook.find_grade(name, assignment, assignment, student)
            grade.manual_score, grade.needs_manual_grade = MANUAL_POINTS, False
            gradebook.db.commit()
        totals = {
            student: gradebook.find_submission(assignment, student).score for student in students
        }
    done(api.generate_feedback(assignment))
    print(json.dumps({"points": points, "totals": totals}))


def open_answers(points: dict[str, dict[str, float | None]]) -> list[tuple[str, str]]:
    """Student and cell of all that waits for a person."""
    return [(who, name) for who, row in points.items() for name, got in row.items() if got is None]


def done(result: dict[str, object]) -> None:
    """Stop with nbgrader's own messages if a step has failed."""
    if not result["success"]:
        raise SystemExit(f"{result['error']}\n{result['log']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
