Feature: The desk is told
  When something is wrong with a model, the desk must hear of it: by mail, and by the program that keeps its
  tickets. It must hear of it whatever is down at that moment, and it must not be called twice for one thing.

  Background:
    Given a desk that is told by mail and by its ticket program

  Scenario: An alert reaches both
    When the alert "ScoreDrift" fires
    And messages are sent
    Then the desk has a mail "[FIRING] ScoreDrift (warning): scores drift"
    And the ticket program has 1 message, each with its own id

  Scenario: What is undone is told to nobody
    When the alert "ScoreDrift" fires, but its evaluation is undone
    And messages are sent
    Then the desk has no mail
    And the ticket program has 0 messages, each with its own id

  Scenario: An alert that is evaluated twice is told once
    When the alert "ScoreDrift" fires
    And the same evaluation is repeated
    And messages are sent
    Then the ticket program has 1 message, each with its own id

  Scenario: The mail server is down, and the ticket program is told nevertheless
    Given the mail server takes nothing
    When the alert "ScoreDrift" fires
    And messages are sent
    Then the ticket program has 1 message, each with its own id
    And 1 message waits for the mail server
    When the mail server works again
    And messages are sent
    Then the desk has a mail "[FIRING] ScoreDrift (warning): scores drift"
    And 0 messages wait for the mail server

  Scenario: That it is over is never told before that it has begun
    Given the mail server takes nothing
    When the alert "ScoreDrift" fires
    And messages are sent
    And the alert "ScoreDrift" is over
    And the mail server works again
    And messages are sent
    Then the desk has mails that begin with "[FIRING]" and "[RESOLVED]", in this order
