Feature: From a contract to trued-up predictions
  Markets Operations acts on predicted settlement fails, and must later be able to show
  what was predicted, on what, by which model, and what really happened.

  Background:
    Given a desk with its own empty ledger
    And the settlement-fails model version 1 is deployed

  Scenario: The desk scores the morning's file and sees why an item is on its list
    When the analyst scores the morning file with 3 trades
    Then 3 predictions are booked
    And the riskiest trade is decided "chase"
    And the ledger names the reasons for the riskiest trade

  Scenario: Scoring the same file twice books nothing twice
    When the analyst scores the morning file with 3 trades
    And the analyst scores the morning file with 3 trades
    Then 3 predictions are booked
    And the second answers equal the first

  Scenario: A retry after a promotion gets the first answer
    When the analyst scores the morning file with 3 trades
    And the settlement-fails model version 2 is deployed
    And the analyst scores the morning file with 3 trades
    Then 3 predictions are booked
    And every prediction was made by version 1

  Scenario: A trade that breaks the contract is refused by name and the rest are answered
    When the analyst scores a file in which trade 2 has no amount
    Then 2 predictions are booked
    And 1 refusal is booked for field "amount" with code "null"

  Scenario: The same trade key with other content is a conflict, never a silent first answer
    When the analyst scores the morning file with 3 trades
    And the analyst scores the morning file with trade 2 at another amount
    Then 3 predictions are booked
    And 1 refusal is booked with reason "conflict"

  Scenario: The outcome arrives late and is corrected, and both days' truth can be read
    When the analyst scores the morning file with 3 trades
    And trade 1 is reported failed
    And trade 1 is corrected to settled
    Then the truth today says trade 1 settled
    And the truth as known before the correction says trade 1 failed
    And the ledger holds 2 revisions of the outcome of trade 1

  Scenario: The ledger cannot be rewritten by the service that writes it
    When the analyst scores the morning file with 3 trades
    Then the writer may neither change nor delete a prediction
    And the reader may read every view and no table

  Scenario: A missing required feature is answered by the declared rule, and the row says so
    When the analyst scores a file in which trade 2 has no history
    Then 3 predictions are booked
    And trade 2 was answered by the fallback
