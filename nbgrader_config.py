"""nbgrader's settings: solutions/ is the source, exercises/ is what learners get. Commands: see TEACHING.md."""

c = get_config()

c.CourseDirectory.course_id = "neural_network_outputs"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.code_stub = {"python": '# Your answer here.\nraise NotImplementedError("not implemented yet")'}
c.ClearSolutions.text_stub = "*Your answer here.*"
# The cells after a failing one still run, so that one unsolved exercise does not cost the points of the next.
c.ExecutePreprocessor.allow_errors = True
c.ExecutePreprocessor.timeout = 120
