Feature: Settlement instructions that arrive on a topic
  The custodian writes settlement instructions to a topic, and sometimes writes them twice. The desk
  wants a score for each of them, once, whatever stops or fails in between.

  Background:
    Given a desk that reads the topic of settlement instructions

  Scenario: Each instruction is scored once though the custodian repeats itself
    Given a server that scores the stream
    When the custodian sends instructions 1 to 5
    And the custodian sends instructions 1 to 5
    Then 10 instructions were received
    And 5 predictions are booked, one an instruction
    And the reply topic holds one answer for each of them

  Scenario: An instruction under an old number with another amount does not replace the first
    Given a server that scores the stream
    When the custodian sends instructions 1 to 3
    And the custodian sends instruction 2 with another amount
    Then 4 instructions were received
    And 3 predictions are booked, one an instruction
    And 1 instruction is set aside as "conflict", because "the identity holds other content"

  Scenario: An unreadable instruction is set aside, and the desk sees why
    Given a server that scores the stream
    When the custodian sends instructions 1 to 3
    And the custodian sends something that is not JSON
    And the custodian sends instruction 4 without an amount
    And the custodian sends instructions 5 to 6
    Then 7 instructions were received
    And 5 predictions are booked, one an instruction
    And 1 instruction is set aside as "undecodable", because "not JSON"
    And 1 instruction is set aside as "contract", because "amount: null"
    And the dead-letter topic holds what the custodian sent, with the reasons

  Scenario: An instruction on which the model fails takes no other with it
    Given the deployed model fails on an amount of 13
    And a server that scores the stream
    When the custodian sends instructions 1 to 20
    And the custodian sends instruction 21 with an amount of 13
    And the custodian sends instructions 22 to 40
    Then 40 instructions were received
    And 39 predictions are booked, one an instruction
    And 1 instruction is set aside as "failed", because "the model could not answer"

  Scenario: The database is away for a moment, and nothing is lost
    Given a server that scores the stream
    When the custodian sends instructions 1 to 50
    And the database goes away
    And the custodian sends instructions 51 to 100
    And the database comes back
    Then 100 instructions were received
    And 100 predictions are booked, one an instruction
    And the reply topic holds one answer for each of them

  Scenario: The database's disk is full for a moment, and nothing is lost
    Given a server that scores the stream
    When the database's disk is full
    And the custodian sends instructions 1 to 50
    And the stream has met the fault
    And there is room on the disk again
    Then 50 instructions were received
    And 50 predictions are booked, one an instruction

  Scenario: The brokers are away for a moment, and nothing is lost
    Given a server that scores the stream
    When the custodian sends instructions 1 to 50
    And the brokers are restarted
    And the custodian sends instructions 51 to 100
    Then 100 instructions were received
    And 100 predictions are booked, one an instruction
    And the reply topic holds an answer for each of them, and repeats are equal

  Scenario: A colleague takes over when a server dies
    Given a server that scores the stream
    And a second server that scores the stream
    When the custodian sends instructions 1 to 200
    And the first server is killed
    And the custodian sends instructions 201 to 400
    Then 400 instructions were received
    And 400 predictions are booked, one an instruction
    And the reply topic holds an answer for each of them, and repeats are equal

  Scenario: A server that was given up for dead wakes and books nothing
    Given a server that scores the stream
    When the custodian sends instructions 1 to 50
    And the first server freezes
    And a second server has taken over
    And the custodian sends instructions 51 to 100
    And 100 instructions were received
    And the first server wakes
    And the custodian sends instructions 101 to 150
    Then 150 instructions were received
    And 150 predictions are booked, one an instruction

  Scenario: The topic is read again on purpose, and nothing is doubled
    Given a server that scores the stream
    When the custodian sends instructions 1 to 20
    And 20 instructions were received
    And the server is stopped
    And the owner sets the stream's positions back to the beginning, with an audit row
    And a server is started again
    Then 40 instructions were received
    And 20 predictions are booked, one an instruction
    And the reply topic holds one answer for each of them
